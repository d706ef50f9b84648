"""Output sockets with slow, half-closed, flooding and other clients."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING, Any

import pytest

from slipway._model.events import Ended, Event, Output
from slipway._model.result import OutputFile
from slipway._server.kept import output_connection
from slipway._server.kept.output_log import AHEAD, BEHIND
from slipway._server.kept.retention import NoLongerKept, RunPolicy
from slipway._server.kept.run_record import build_run_record
from slipway._util.errors import InputError
from slipway._wire.reader import EventReader
from support.kept_runs import MIB, US, command, keeping, lines, pieces_of
from support.output_clients import connect, read_all, read_exactly, whole
from support.played_execution import PlayedExecution, printing, writing
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from slipway._server.kept.kept_runs import KeptRuns


@pytest.fixture
async def kept_runs() -> AsyncIterator[KeptRuns]:
    async with keeping() as runs:
        yield runs


async def test_raw_output_is_kept_for_a_later_client(kept_runs: KeptRuns) -> None:
    run = await kept_runs.start(PlayedExecution(printing(b"hello\n", b"world\n")), RunPolicy(US))
    await wait_until(lambda: run.ended, "the run has ended")

    got = await whole(run.socket or "")

    assert got == b"hello\nworld\n"


async def test_a_hundred_megabytes_arrive_whole(kept_runs: KeptRuns) -> None:
    piece = random.Random(1).randbytes(100_000)
    run = await kept_runs.start(PlayedExecution(printing(*[piece] * 1000)), RunPolicy(US))

    got = await whole(run.socket or "")

    assert got == piece * 1000


async def test_a_program_waits_while_nobody_reads(kept_runs: KeptRuns) -> None:
    execution = PlayedExecution(writing(*[bytes(64 * 1024)] * 1000))
    run = await kept_runs.start(execution, RunPolicy(US))
    await wait_until(lambda: run.output.full, "the run's log is full")
    unconnected = execution.given

    client = connect(run.socket or "")
    await wait_until(
        lambda: execution.given > unconnected and run.output.full,
        "more output was given, and the log is full",
    )
    taken = run.output.taken
    for _ in range(1000):
        await asyncio.sleep(0)

    client.close()
    assert unconnected * 64 * 1024 <= AHEAD + 4 * 64 * 1024
    assert taken == run.output.taken
    # What the kernel holds back has to be kept, for whoever has read none of it.
    assert 0 < taken < BEHIND
    assert run.output.size <= AHEAD + BEHIND


@pytest.mark.parametrize("seed", range(8))
async def test_a_client_resumes_at_the_offset_that_it_counted(
    kept_runs: KeptRuns, seed: int
) -> None:
    chance = random.Random(seed)
    pieces = pieces_of(5 * MIB, seed)
    run = await kept_runs.start(PlayedExecution(printing(*pieces)), RunPolicy(US))
    got = b""

    while len(got) < 4 * MIB:
        client = connect(run.socket or "")
        got += await asyncio.to_thread(read_exactly, client, chance.randint(0, MIB))
        if chance.random() < 0.5:
            client.close()
        run.resume(len(got))
        client.close()
    got += await whole(run.socket or "")

    assert got == b"".join(pieces)


async def test_a_plain_reconnect_begins_at_the_oldest_byte_kept(kept_runs: KeptRuns) -> None:
    data = b"".join(pieces_of(4 * MIB, 1))
    run = await kept_runs.start(PlayedExecution(printing(data)), RunPolicy(US))
    first = connect(run.socket or "")
    await asyncio.to_thread(read_exactly, first, 3 * MIB)
    first.close()
    await wait_until(lambda: not run.connected, "no client is connected")
    oldest = build_run_record(run)["kept_from"]

    got = await whole(run.socket or "")

    assert oldest > 0
    assert got == data[oldest:]


async def test_refuses_to_resume_at_dropped_bytes(kept_runs: KeptRuns) -> None:
    run = await kept_runs.start(PlayedExecution(printing(bytes(4 * MIB))), RunPolicy(US))
    client = connect(run.socket or "")
    await asyncio.to_thread(read_exactly, client, 3 * MIB)

    with pytest.raises(NoLongerKept, match="byte 0 of the stream is no longer kept"):
        run.resume(0)
    with pytest.raises(InputError, match="is beyond the stream's end"):
        run.resume(5 * MIB)

    client.close()


async def test_the_newest_client_wins(kept_runs: KeptRuns) -> None:
    execution = PlayedExecution(writing(b"so far"))
    run = await kept_runs.start(execution, RunPolicy(US))
    old = connect(run.socket or "")
    got_old = await asyncio.to_thread(read_exactly, old, 6)

    new = connect(run.socket or "")
    got_new = await asyncio.to_thread(read_exactly, new, 6)
    rest_old = await asyncio.to_thread(read_all, old)
    run.resume(6)
    third = connect(run.socket or "")
    await run.cancel()

    assert (got_old, got_new, rest_old) == (b"so far", b"so far", b"")
    assert await asyncio.to_thread(read_all, third) == b""
    new.close()


async def test_many_concurrent_clients_leave_nothing(kept_runs: KeptRuns) -> None:
    run = await kept_runs.start(PlayedExecution(writing(b"x")), RunPolicy(US))

    def storm() -> None:
        for _ in range(200):
            connect(run.socket or "").close()

    await asyncio.gather(*(asyncio.to_thread(storm) for _ in range(3)))

    await run.cancel()
    assert await whole(run.socket or "") == b"x"


async def test_a_half_closed_client_gets_everything(kept_runs: KeptRuns) -> None:
    pieces = pieces_of(3 * MIB, 2)
    run = await kept_runs.start(PlayedExecution(printing(*pieces)), RunPolicy(US, "events"))
    client = connect(run.socket or "")
    client.shutdown(socket.SHUT_WR)

    got = await asyncio.to_thread(read_all, client)
    await run.wait_forgotten()

    assert b"".join(_output(lines(got))) == b"".join(pieces)


def _output(records: list[dict[str, Any]]) -> Iterator[bytes]:
    reader = EventReader()
    for record in records:
        event = reader.feed(record)
        if isinstance(event, Output):
            yield event.data


async def test_a_half_closed_client_that_leaves_a_silent_program_is_noticed(
    kept_runs: KeptRuns,
) -> None:
    run = await kept_runs.start(PlayedExecution(writing(b"x")), RunPolicy(US))
    client = connect(run.socket or "")
    client.shutdown(socket.SHUT_WR)
    await asyncio.to_thread(read_exactly, client, 1)
    there = run.connected

    client.close()
    await wait_until(lambda: not run.connected, "no client is connected")

    assert there
    assert not run.ended


async def test_input_of_a_raw_client_is_dropped(kept_runs: KeptRuns) -> None:
    run = await kept_runs.start(PlayedExecution(printing(b"hello")), RunPolicy(US))
    client = connect(run.socket or "")

    await asyncio.to_thread(client.sendall, bytes(4 * MIB))

    assert await asyncio.to_thread(read_all, client) == b"hello"
    await wait_until(lambda: run.read, "all output was read")


@pytest.mark.parametrize("stream", ["raw", "events"])
async def test_stream_with_unread_bytes_is_not_delivered(kept_runs: KeptRuns, stream: str) -> None:
    run = await kept_runs.start(PlayedExecution(printing(b"hello" * 1000)), RunPolicy(US, stream))
    client = connect(run.socket or "")
    await asyncio.to_thread(read_exactly, client, 1000)
    await wait_until(lambda: run.ended, "the run has ended")

    client.close()
    await wait_until(lambda: not run.connected, "no client is connected")

    assert not run.read
    assert len(await whole(run.socket or "")) >= 5000


async def test_stream_with_unread_bytes_is_not_delivered_to_a_half_closed_client(
    kept_runs: KeptRuns,
) -> None:
    run = await kept_runs.start(PlayedExecution(printing(b"hello" * 1000)), RunPolicy(US))
    client = connect(run.socket or "")
    client.shutdown(socket.SHUT_WR)
    await asyncio.to_thread(read_exactly, client, 1000)
    await wait_until(lambda: run.ended, "the run has ended")

    client.close()
    await wait_until(lambda: not run.connected, "no client is connected")

    assert not run.read


async def test_events_stream_takes_commands_and_answers_invalid_commands(
    kept_runs: KeptRuns,
) -> None:
    execution = PlayedExecution(writing(b"x"))
    run = await kept_runs.start(execution, RunPolicy(US, "events"))
    client = connect(run.socket or "")

    client.sendall(b"nonsense\n" + command(type="stdin", text="hello"))
    client.sendall(command(type="signal", signal="SIGUSR1") + command(type="cancel"))
    records = lines(await asyncio.to_thread(read_all, client))

    assert [record["type"] for record in records if record["type"] == "refused"] == ["refused"]
    assert records[-1]["type"] == "ended"
    assert records[-1]["result"]["verdict"] == "cancelled"
    assert (execution.written, execution.signals) == (b"hello", [10])


async def test_a_flood_of_commands_waits_for_the_program(kept_runs: KeptRuns) -> None:
    execution = PlayedExecution(writing(b"x"))
    execution.reading.clear()
    run = await kept_runs.start(execution, RunPolicy(US, "events"))
    client = connect(run.socket or "")
    client.setblocking(False)
    line, sent = command(type="stdin", text="a" * 1000), 0

    # The kernel takes some; then nobody does.
    async with asyncio.timeout(30):
        for _ in range(200):
            try:
                sent += client.send(line * 100)
            except BlockingIOError:
                await asyncio.sleep(0.001)

    client.close()
    assert sent < 2 * MIB
    execution.reading.set()
    await wait_until(lambda: len(execution.written) > 1000, "more than 1000 pieces were written")


async def test_flood_of_invalid_commands_waits_for_its_client_to_read(kept_runs: KeptRuns) -> None:
    run = await kept_runs.start(PlayedExecution(writing(b"x")), RunPolicy(US, "events"))
    client = connect(run.socket or "")
    flooding = asyncio.create_task(asyncio.to_thread(client.sendall, b"x\n" * MIB))

    await wait_until(lambda: run.output.full, "the run's log is full")
    kept_bytes = run.output.size
    client.shutdown(socket.SHUT_RDWR)
    with pytest.raises(BrokenPipeError):
        await flooding

    client.close()
    assert kept_bytes <= AHEAD + BEHIND


async def test_files_of_events_come_before_the_end_and_are_whole(kept_runs: KeptRuns) -> None:
    file = OutputFile("big.bin", 0o640, random.Random(3).randbytes(3 * MIB))
    run = await kept_runs.start(PlayedExecution(printing(files=(file,))), RunPolicy(US, "events"))

    records = lines(await whole(run.socket or ""))
    await run.wait_forgotten()

    reader = EventReader(("big.bin",))
    events: list[Event | None] = [reader.feed(record) for record in records]
    last = events[-1]
    assert isinstance(last, Ended)
    assert last.result.files == (file,)


def test_kernel_buffers_less_than_is_kept() -> None:
    # socket(7): the kernel doubles it; one more piece fits, of at most half of that.
    assert 3 * output_connection.SEND_BUFFER < BEHIND
