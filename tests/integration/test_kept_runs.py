"""How long a server keeps a run, and for whom."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING

import pytest

from slipway._model.errors import Busy, HostError, UnknownOutcome
from slipway._model.result import OutputFile, Verdict
from slipway._server.kept import kept_runs as vms
from slipway._server.kept.kept_runs import Vms
from slipway._server.kept.output_log import AHEAD
from slipway._server.kept.retention import NoLongerKept, Patience, Place, Terms
from slipway._server.peers import AllowList, Peer
from slipway._server.socket_access import Access
from support.kept_runs import MIB, US, command, keeping, lines, pieces_of, until
from support.output_clients import connect, read_all, read_exactly, whole
from support.played_execution import PlayedExecution, printing, writing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STRANGER = 12345


@pytest.fixture
async def kept() -> AsyncIterator[Vms]:
    async with keeping() as runs:
        yield runs


async def test_socket_and_directory_vanish_once_all_has_been_read(kept: Vms) -> None:
    vm = await kept.start(PlayedExecution(printing(b"hello\n")), Terms(US, "events"))
    path = vm.socket
    assert path is not None

    await whole(path)
    await vm.over()

    assert not path.parent.exists()
    assert kept.get(vm.id, Peer(1, US, frozenset())) is None


async def test_what_was_promised_to_be_resumed_is_kept_from_that_moment(kept: Vms) -> None:
    pieces = pieces_of(8 * MIB, seed=1)
    vm = await kept.start(PlayedExecution(writing(*pieces)), Terms(US))
    path = vm.socket
    assert path is not None
    first = connect(path)
    await asyncio.to_thread(read_exactly, first, 3 * MIB)

    # The first one goes on reading, so that what is written to it would move the window.
    reading = asyncio.create_task(asyncio.to_thread(read_all, first))
    oldest = vm.record()["kept_from"]
    vm.resume(oldest)
    await reading
    with connect(path) as second:
        data = await asyncio.to_thread(read_exactly, second, MIB)

    assert data == b"".join(pieces)[oldest : oldest + MIB]
    await vm.forget()


async def test_a_raw_run_keeps_its_result_when_its_socket_has_vanished(
    kept: Vms,
) -> None:
    files = (OutputFile("a.txt", 0o644, b"content"),)
    vm = await kept.start(PlayedExecution(printing(b"hello\n", files=files)), Terms(US))
    path = vm.socket
    assert path is not None

    await whole(path)
    await until(lambda: vm.read)

    record = vm.record()
    assert not path.parent.exists()
    assert (record["socket"], record["state"], record["result"]["verdict"]) == (None, "ended", "ok")
    assert vm.file("a.txt") == files[0]
    assert vm.kept == len(b"content")
    with pytest.raises(NoLongerKept):
        vm.resume(0)
    await vm.remove()
    assert len(kept) == 0


async def test_nothing_is_left_after_the_grace() -> None:
    async with keeping(Patience(grace=0)) as runs:
        vm = await runs.start(PlayedExecution(printing(b"unread")), Terms(US))

        await vm.over()

        assert (len(runs), runs.kept) == (0, 0)


async def test_a_client_that_reads_nothing_has_no_longer_than_the_grace() -> None:
    async with keeping(Patience(grace=0.05)) as runs:
        vm = await runs.start(PlayedExecution(printing(bytes(AHEAD))), Terms(US))
        client = connect(vm.socket or "")

        await vm.over()

        assert vm.forgotten
        client.close()


async def test_a_run_that_ended_while_nobody_read_its_output_is_noticed() -> None:
    async with keeping(Patience(grace=0)) as runs:
        execution = PlayedExecution(printing(bytes(2 * AHEAD)))
        vm = await runs.start(execution, Terms(US))
        await until(lambda: vm._output.full)

        execution.end()
        await vm.over()

        assert vm.forgotten


async def test_a_program_that_waits_for_a_reader_too_long_is_cancelled() -> None:
    async with keeping(Patience(stall=0, grace=0)) as runs:
        execution = PlayedExecution(writing(bytes(2 * AHEAD)))

        vm = await runs.start(execution, Terms(US))
        await vm.over()

        assert execution.cancelled.is_set()


async def test_a_client_that_leaves_and_does_not_come_back_ends_the_run() -> None:
    async with keeping(Patience(reconnect=0, grace=3600)) as runs:
        execution = PlayedExecution(writing(b"x"))
        vm = await runs.start(execution, Terms(US))

        connect(vm.socket or "").close()
        await execution.cancelled.wait()
        await until(lambda: vm.ended)

        assert vm.result is not None
        assert vm.result.verdict is Verdict.CANCELLED


async def test_a_client_that_comes_back_in_time_keeps_the_run(kept: Vms) -> None:
    execution = PlayedExecution(writing(b"x"))
    vm = await kept.start(execution, Terms(US))
    connect(vm.socket or "").close()
    await until(lambda: vm._departure is not None)

    client = connect(vm.socket or "")
    await until(lambda: vm.connected)

    assert vm._departure is None
    client.close()


async def test_a_detached_run_does_without_its_client() -> None:
    async with keeping(Patience(reconnect=0, grace=3600)) as runs:
        execution = PlayedExecution(writing(b"x"))
        vm = await runs.start(execution, Terms(US, detached=True))

        client = connect(vm.socket or "")
        await until(lambda: vm.connected)
        client.close()
        await until(lambda: not vm.connected)

        assert vm._departure is None


async def test_commands_of_a_client_that_left_at_once_are_carried_out() -> None:
    async with keeping() as runs:
        execution = PlayedExecution(writing())
        vm = await runs.start(execution, Terms(US, "events"))
        client = connect(vm.socket or "")

        client.sendall(command(type="cancel"))
        client.close()
        await execution.cancelled.wait()

        assert execution.cancels >= 1


@pytest.mark.parametrize("stream", ["raw", "events"])
async def test_a_failure_ends_the_stream(kept: Vms, stream: str) -> None:
    error = UnknownOutcome("the machine ended by itself", "Look at it.")
    vm = await kept.start(PlayedExecution(writing(b"x"), error), Terms(US, stream))
    await until(lambda: vm.ended)
    record = vm.record()

    got = await whole(vm.socket or "")

    told = {"error": "UnknownOutcome", "message": error.message, "hint": error.hint}
    assert record["failure"] == told
    if stream == "raw":
        assert got == b"x"
    else:
        assert lines(got)[-1] == {"type": "failed", **told}


async def test_a_bug_ends_the_stream_and_tells_no_traceback(
    kept: Vms, caplog: pytest.LogCaptureFixture
) -> None:
    execution = PlayedExecution(writing(), KeyError("secret"))
    vm = await kept.start(execution, Terms(US, "events"))

    got = lines(await whole(vm.socket or ""))

    assert got[-1]["error"] == "HostError"
    assert "secret" not in str(got)
    assert "was lost by a bug" in caplog.text


async def test_removing_a_run_ends_it_and_leaves_its_output(kept: Vms) -> None:
    execution = PlayedExecution(writing(b"so far"))
    vm = await kept.start(execution, Terms(US))
    await until(lambda: vm.kept > 0)

    await vm.remove()
    await until(lambda: vm.ended)
    got = await whole(vm.socket or "")

    assert execution.cancelled.is_set()
    assert got == b"so far"


async def test_removing_a_run_that_has_ended_leaves_nothing(kept: Vms) -> None:
    vm = await kept.start(PlayedExecution(printing(b"unread")), Terms(US))
    await until(lambda: vm.ended)

    await vm.remove()

    assert len(kept) == 0


async def test_only_the_owner_and_who_oversees_see_a_run(kept: Vms) -> None:
    vm = await kept.start(PlayedExecution(writing(b"x")), Terms(STRANGER))
    stranger, other = Peer(1, STRANGER, frozenset()), Peer(1, STRANGER + 1, frozenset())
    ours = Peer(1, US, frozenset())

    assert kept.get(vm.id, stranger) is vm
    assert kept.get(vm.id, ours) is vm
    assert kept.get(vm.id, other) is None
    assert kept.listing(other) == []
    assert kept.listing(stranger) == [vm]


@pytest.mark.skipif(US != 0, reason="only root can become somebody else")
async def test_only_the_owner_gets_output_from_a_socket_that_all_may_open() -> None:
    program = (
        f"import os, socket, sys; os.setgid({STRANGER}); os.setuid({STRANGER});"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(100))"
    )
    told = []

    async with keeping(access=Access(0o666)) as runs:
        for owner in (US, STRANGER):
            vm = await runs.start(PlayedExecution(writing(b"secret")), Terms(owner))
            child = await asyncio.create_subprocess_exec(
                "python3", "-c", program, str(vm.socket), stdout=asyncio.subprocess.PIPE
            )
            told.append((await child.communicate())[0])

    assert told == [b"b''\n", b"b'secret'\n"]


@pytest.mark.parametrize(("mode", "directory"), [(0o600, 0o700), (0o660, 0o711), (0o666, 0o711)])
async def test_sockets_have_the_mode_that_was_asked_for(mode: int, directory: int) -> None:
    async with keeping(access=Access(mode)) as runs:
        vm = await runs.start(PlayedExecution(writing(b"x")), Terms(US))
        assert vm.socket is not None

        found = [stat.S_IMODE(path.stat().st_mode) for path in (vm.socket, vm.socket.parent)]

        assert found == [mode, directory]


async def test_a_run_whose_socket_cannot_be_made_is_cancelled(tmp_path: Path) -> None:
    runs = Vms(Place(tmp_path / "no", Access(), AllowList(US)))
    execution = PlayedExecution(writing(b"x"))

    with pytest.raises(HostError, match="no output socket can be made"):
        await runs.start(execution, Terms(US))

    assert execution.cancelled.is_set()
    assert len(runs) == 0


async def test_what_ended_unread_is_bounded_in_number(
    kept: Vms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vms, "MAX_ENDED", 2)
    for _ in range(2):
        vm = await kept.start(PlayedExecution(printing(b"unread")), Terms(US))
        await until(lambda vm=vm: vm.ended)  # type: ignore[misc]
    execution = PlayedExecution(printing(b"too much"))

    with pytest.raises(Busy, match="2 runs have ended and wait to be read") as caught:
        await kept.start(execution, Terms(US))

    assert caught.value.retry_after >= 1
    assert execution.cancelled.is_set()


async def test_what_ended_unread_is_bounded_in_bytes(
    kept: Vms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vms, "MAX_KEPT", 1000)
    file = OutputFile("a", 0o644, bytes(990))
    vm = await kept.start(PlayedExecution(printing(bytes(10), files=(file,))), Terms(US))
    await until(lambda: vm.ended)

    with pytest.raises(Busy, match="with 1000 bytes of output and files"):
        kept.check_room()
    await vm.remove()

    kept.check_room()
    assert kept.kept == 0


async def test_what_was_read_makes_room(kept: Vms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vms, "MAX_ENDED", 3)
    for _ in range(10):
        vm = await kept.start(PlayedExecution(printing(b"read")), Terms(US))
        await whole(vm.socket or "")
        await until(lambda vm=vm: vm.read)  # type: ignore[misc]

    await until(lambda: len(kept) <= 3)
    assert kept.get(vm.id, Peer(1, US, frozenset())) is vm


async def test_draining_waits_for_who_is_reading(kept: Vms) -> None:
    data = b"".join(pieces_of(2 * MIB, 4))
    vm = await kept.start(PlayedExecution(printing(data)), Terms(US))
    client = connect(vm.socket or "")
    await until(lambda: vm.connected)
    draining = asyncio.create_task(kept.drain(3600))

    got = await asyncio.to_thread(read_all, client)
    await draining

    assert got == data
