"""Lifetime of kept runs, and their owners."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING

import pytest

from slipway._model.result import OutputFile, Verdict
from slipway._server.kept.kept_runs import KeptRuns
from slipway._server.kept.output_log import AHEAD
from slipway._server.kept.retention import (
    ClientTimeouts,
    KeptBounds,
    NoLongerKept,
    OutputSockets,
    RunPolicy,
)
from slipway._server.kept.run_record import build_run_record
from slipway._server.peers import AllowList, Peer
from slipway._server.socket_access import SocketAccess
from slipway._util.errors import Busy, HostError, UnknownOutcome
from support.clock import JumpingClock
from support.kept_runs import MIB, US, command, keeping, lines, pieces_of
from support.output_clients import connect, read_all, read_exactly, whole
from support.played_execution import PlayedExecution, printing, writing
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from slipway._server.kept.kept_run import KeptRun

STRANGER = 12345


@pytest.fixture
async def run_table() -> AsyncIterator[KeptRuns]:
    async with keeping() as runs:
        yield runs


async def test_socket_and_directory_are_removed_after_all_has_been_read(
    run_table: KeptRuns,
) -> None:
    run = await run_table.start(PlayedExecution(printing(b"hello\n")), RunPolicy(US, "events"))
    path = run.socket
    assert path is not None

    await whole(path)
    await run.wait_forgotten()

    assert not path.parent.exists()
    assert run_table.find(run.id, Peer(1, US, frozenset())) is None


async def test_resumed_bytes_are_kept_from_the_call_on(run_table: KeptRuns) -> None:
    pieces = pieces_of(8 * MIB, seed=1)
    run = await run_table.start(PlayedExecution(writing(*pieces)), RunPolicy(US))
    path = run.socket
    assert path is not None
    first = connect(path)
    await asyncio.to_thread(read_exactly, first, 3 * MIB)

    # The first one goes on reading, so that what is written to it would move the window.
    reading = asyncio.create_task(asyncio.to_thread(read_all, first))
    oldest = build_run_record(run)["kept_from"]
    run.resume(oldest)
    await reading
    with connect(path) as second:
        data = await asyncio.to_thread(read_exactly, second, MIB)

    assert data == b"".join(pieces)[oldest : oldest + MIB]
    await run.forget()


async def test_raw_run_keeps_its_result_after_its_socket(
    run_table: KeptRuns,
) -> None:
    files = (OutputFile("a.txt", 0o644, b"content"),)
    run = await run_table.start(PlayedExecution(printing(b"hello\n", files=files)), RunPolicy(US))
    path = run.socket
    assert path is not None

    await whole(path)
    await wait_until(lambda: run.read, "all output was read")

    record = build_run_record(run)
    assert not path.parent.exists()
    assert (record["socket"], record["state"], record["result"]["verdict"]) == (None, "ended", "ok")
    assert run.find_file("a.txt") == files[0]
    assert run.kept_bytes == len(b"content")
    with pytest.raises(NoLongerKept):
        run.resume(0)
    await run.remove()
    assert len(run_table) == 0


async def test_unread_run_is_forgotten_after_the_grace_time() -> None:
    JumpingClock()
    async with keeping(ClientTimeouts(grace=60)) as runs:
        run = await runs.start(PlayedExecution(printing(b"unread")), RunPolicy(US))

        await run.wait_forgotten()

        assert (len(runs), runs.kept_bytes) == (0, 0)


async def test_client_that_reads_nothing_has_only_the_grace_time() -> None:
    JumpingClock()
    async with keeping(ClientTimeouts(grace=3600)) as runs:
        run = await runs.start(PlayedExecution(printing(bytes(AHEAD))), RunPolicy(US))
        client = connect(run.socket or "")

        await run.wait_forgotten()

        assert run.forgotten
        client.close()


async def test_end_of_a_run_with_unread_output_is_noticed() -> None:
    JumpingClock()
    async with keeping(ClientTimeouts(grace=60)) as runs:
        execution = PlayedExecution(printing(bytes(2 * AHEAD)))
        run = await runs.start(execution, RunPolicy(US))
        await wait_until(lambda: run.output.full, "the run's log is full")

        execution.end()
        await run.wait_forgotten()

        assert run.forgotten


async def test_run_is_cancelled_if_its_program_waits_too_long_for_a_reader() -> None:
    JumpingClock()
    async with keeping(ClientTimeouts(stall=60, grace=60)) as runs:
        execution = PlayedExecution(writing(bytes(2 * AHEAD)))

        run = await runs.start(execution, RunPolicy(US))
        await run.wait_forgotten()

        assert execution.cancelled.is_set()


async def test_a_client_that_leaves_and_does_not_come_back_ends_the_run() -> None:
    JumpingClock()
    async with keeping(ClientTimeouts(reconnect=60, grace=3600)) as runs:
        execution = PlayedExecution(writing(b"x"))
        run = await runs.start(execution, RunPolicy(US))

        connect(run.socket or "").close()
        await wait_until(execution.cancelled.is_set, "the run is cancelled")
        await wait_until(lambda: run.ended, "the run has ended")

        assert run.result is not None
        assert run.result.verdict is Verdict.CANCELLED


async def test_a_client_that_comes_back_in_time_keeps_the_run(run_table: KeptRuns) -> None:
    execution = PlayedExecution(writing(b"x"))
    run = await run_table.start(execution, RunPolicy(US))
    connect(run.socket or "").close()
    await wait_until(lambda: run.awaits_client, "the grace of the client that left has begun")

    client = connect(run.socket or "")
    await wait_until(lambda: run.connected, "a client is connected")

    assert not run.awaits_client
    client.close()


async def test_detached_run_goes_on_without_its_client() -> None:
    async with keeping(ClientTimeouts(reconnect=0, grace=3600)) as runs:
        execution = PlayedExecution(writing(b"x"))
        run = await runs.start(execution, RunPolicy(US, detached=True))

        client = connect(run.socket or "")
        await wait_until(lambda: run.connected, "a client is connected")
        client.close()
        await wait_until(lambda: not run.connected, "no client is connected")

        assert not run.awaits_client


async def test_commands_of_a_client_that_left_at_once_are_carried_out() -> None:
    async with keeping() as runs:
        execution = PlayedExecution(writing())
        run = await runs.start(execution, RunPolicy(US, "events"))
        client = connect(run.socket or "")

        client.sendall(command(type="cancel"))
        client.close()
        await wait_until(execution.cancelled.is_set, "the run is cancelled")

        assert execution.cancels >= 1


@pytest.mark.parametrize("stream", ["raw", "events"])
async def test_a_failure_ends_the_stream(run_table: KeptRuns, stream: str) -> None:
    error = UnknownOutcome("the machine ended by itself", "Look at it.")
    run = await run_table.start(PlayedExecution(writing(b"x"), error), RunPolicy(US, stream))
    await wait_until(lambda: run.ended, "the run has ended")
    record = build_run_record(run)

    got = await whole(run.socket or "")

    told = {"error": "UnknownOutcome", "message": error.message, "hint": error.hint}
    assert record["failure"] == told
    if stream == "raw":
        assert got == b"x"
    else:
        assert lines(got)[-1] == {"type": "failed", **told}


async def test_bug_ends_the_stream_without_a_traceback(
    run_table: KeptRuns, caplog: pytest.LogCaptureFixture
) -> None:
    execution = PlayedExecution(writing(), KeyError("secret"))
    run = await run_table.start(execution, RunPolicy(US, "events"))

    got = lines(await whole(run.socket or ""))

    assert got[-1]["error"] == "HostError"
    assert "secret" not in str(got)
    assert "was lost by a bug" in caplog.text


async def test_removing_a_run_ends_it_and_keeps_its_output(run_table: KeptRuns) -> None:
    execution = PlayedExecution(writing(b"so far"))
    run = await run_table.start(execution, RunPolicy(US))
    await wait_until(lambda: run.kept_bytes > 0, "output is kept")

    await run.remove()
    await wait_until(lambda: run.ended, "the run has ended")
    got = await whole(run.socket or "")

    assert execution.cancelled.is_set()
    assert got == b"so far"


async def test_removing_a_run_that_has_ended_leaves_nothing(run_table: KeptRuns) -> None:
    run = await run_table.start(PlayedExecution(printing(b"unread")), RunPolicy(US))
    await wait_until(lambda: run.ended, "the run has ended")

    await run.remove()

    assert len(run_table) == 0


async def test_only_the_owner_and_overseers_see_a_run(run_table: KeptRuns) -> None:
    run = await run_table.start(PlayedExecution(writing(b"x")), RunPolicy(STRANGER))
    stranger, other = Peer(1, STRANGER, frozenset()), Peer(1, STRANGER + 1, frozenset())
    ours = Peer(1, US, frozenset())

    assert run_table.find(run.id, stranger) is run
    assert run_table.find(run.id, ours) is run
    assert run_table.find(run.id, other) is None
    assert run_table.list_visible(other) == []
    assert run_table.list_visible(stranger) == [run]


@pytest.mark.usefixtures("other_users")
async def test_only_the_owner_reads_output_from_a_socket_with_open_mode() -> None:
    program = (
        f"import os, socket, sys; os.setgid({STRANGER}); os.setuid({STRANGER});"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(100))"
    )
    told = []

    async with keeping(access=SocketAccess(0o666)) as runs:
        for owner in (US, STRANGER):
            run = await runs.start(PlayedExecution(writing(b"secret")), RunPolicy(owner))
            child = await asyncio.create_subprocess_exec(
                "python3", "-c", program, str(run.socket), stdout=asyncio.subprocess.PIPE
            )
            told.append((await child.communicate())[0])

    assert told == [b"b''\n", b"b'secret'\n"]


@pytest.mark.parametrize(("mode", "directory"), [(0o600, 0o700), (0o660, 0o711), (0o666, 0o711)])
async def test_output_sockets_have_the_requested_mode(mode: int, directory: int) -> None:
    async with keeping(access=SocketAccess(mode)) as runs:
        run = await runs.start(PlayedExecution(writing(b"x")), RunPolicy(US))
        assert run.socket is not None

        found = [stat.S_IMODE(path.stat().st_mode) for path in (run.socket, run.socket.parent)]

        assert found == [mode, directory]


async def test_run_without_a_socket_is_cancelled(tmp_path: Path) -> None:
    runs = KeptRuns(OutputSockets(tmp_path / "no", SocketAccess(), AllowList(US)))
    execution = PlayedExecution(writing(b"x"))

    with pytest.raises(HostError, match="cannot create the output socket"):
        await runs.start(execution, RunPolicy(US))

    assert execution.cancelled.is_set()
    assert len(runs) == 0


async def keep_unread(runs: KeptRuns, policy: RunPolicy, data: bytes = b"unread") -> KeptRun:
    """Return a run that has ended, and whose output nobody has read."""
    run = await runs.start(PlayedExecution(printing(data)), policy)
    await wait_until(lambda: run.ended, "the run has ended")
    return run


async def test_unread_runs_are_bounded_in_number() -> None:
    async with keeping(bounds=KeptBounds(kept_runs=2)) as runs:
        for _ in range(2):
            await keep_unread(runs, RunPolicy(US))
        execution = PlayedExecution(printing(b"too much"))

        with pytest.raises(Busy, match="2 ended runs are unread") as caught:
            await runs.start(execution, RunPolicy(US))

        assert caught.value.retry_after >= 1
        assert execution.cancelled.is_set()


async def test_unread_output_is_bounded_in_bytes() -> None:
    async with keeping(bounds=KeptBounds(kept_budget=1000)) as runs:
        file = OutputFile("a", 0o644, bytes(990))
        run = await runs.start(PlayedExecution(printing(bytes(10), files=(file,))), RunPolicy(US))
        await wait_until(lambda: run.ended, "the run has ended")

        with pytest.raises(Busy, match="with 1000 bytes of output and files"):
            runs.check_room(RunPolicy(US).share)
        await run.remove()

        runs.check_room(RunPolicy(US).share)
        assert runs.kept_bytes == 0


async def test_unread_output_of_a_user_is_dropped_for_another_user() -> None:
    async with keeping(bounds=KeptBounds(kept_budget=1000)) as runs:
        large = await keep_unread(runs, RunPolicy(STRANGER, key="large"), bytes(900))
        small = await keep_unread(runs, RunPolicy(STRANGER, key="small"), bytes(100))

        mine = await keep_unread(runs, RunPolicy(US), b"mine")
        await large.wait_forgotten()

        assert [run.forgotten for run in (large, small, mine)] == [True, False, False]
        assert runs.kept.given_way == 1


async def test_user_with_most_unread_runs_loses_the_oldest_to_another_user() -> None:
    async with keeping(bounds=KeptBounds(kept_runs=4)) as runs:
        theirs = [await keep_unread(runs, RunPolicy(STRANGER)) for _ in range(4)]

        mine = [await keep_unread(runs, RunPolicy(US, key=str(number))) for number in range(2)]
        await asyncio.gather(*(run.wait_forgotten() for run in theirs[:2]))

        assert [run.forgotten for run in theirs] == [True, True, False, False]
        assert not any(run.forgotten for run in mine)
        with pytest.raises(Busy):  # each has half of it
            runs.check_room(RunPolicy(US, key="fresh").share)


async def test_runs_that_have_been_read_make_room() -> None:
    async with keeping(bounds=KeptBounds(kept_runs=3)) as runs:
        for _ in range(10):
            run = await runs.start(PlayedExecution(printing(b"read")), RunPolicy(US))
            await whole(run.socket or "")
            await wait_until(lambda run=run: run.read, "all output was read")  # type: ignore[misc]

        await wait_until(lambda: len(runs) <= 3, "at most three runs are kept")
        assert runs.find(run.id, Peer(1, US, frozenset())) is run


async def test_drain_waits_for_connected_clients(run_table: KeptRuns) -> None:
    data = b"".join(pieces_of(2 * MIB, 4))
    run = await run_table.start(PlayedExecution(printing(data)), RunPolicy(US))
    client = connect(run.socket or "")
    await wait_until(lambda: run.connected, "a client is connected")
    draining = asyncio.create_task(run_table.drain(3600))

    got = await asyncio.to_thread(read_all, client)
    await draining

    assert got == data
