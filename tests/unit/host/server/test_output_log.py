"""The window of an output stream, compared with plain bytes."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway._server.kept.output_log import AHEAD, BEHIND, OutputLog
from support.waiting import wait_until

_AHEAD, _BEHIND = 200_000, 150_000
# Around the sizes at which pieces are gathered, and cut.
_SIZES = st.one_of(st.integers(0, 300), st.integers(15_000, 70_000), st.just(450_000))
_STEPS = st.lists(
    st.one_of(st.tuples(st.just("append"), _SIZES), st.tuples(st.just("read"), _SIZES))
)


def _read(log: OutputLog, offset: int, most: int = 1 << 30) -> bytes:
    return b"".join(log.read(offset, most))


async def _wait(log: OutputLog, offset: int) -> None:
    """Wait until the stream has bytes at ``offset``, or is closed."""
    grown = asyncio.Event()
    log.watch(grown.set)
    while log.end <= offset and not log.closed:
        grown.clear()
        await wait_until(grown.is_set, "the log reports its growth")
    log.unwatch(grown.set)


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@settings(deadline=None, max_examples=150)
@given(_STEPS, st.integers(0, 2**32))
def test_reads_the_appended_bytes_within_its_bounds(
    steps: list[tuple[str, int]], seed: int
) -> None:
    async def play() -> None:
        log, model, offset, chance = OutputLog(_AHEAD, _BEHIND), b"", 0, random.Random(seed)
        appending: set[asyncio.Task[None]] = set()

        for step, size in steps:
            if step == "append":
                data = chance.randbytes(size)
                model += data
                appending.add(asyncio.create_task(log.append(data)))
            else:
                got = _read(log, offset, size)
                assert got == model[offset : offset + size][: log.end - offset]
                offset += len(got)
                log.take(offset)
            await _settle()
            assert log.end - log.taken <= _AHEAD
            assert log.start <= max(0, log.taken - _BEHIND)
            assert log.size <= _AHEAD + _BEHIND + 256 * 1024
            at = chance.randint(log.start, log.end)
            assert _read(log, at) == model[at : log.end]
            assert log.full == (log.end < len(model))

        while offset < len(model):
            await _wait(log, offset)
            got = _read(log, offset)
            assert got == model[offset : offset + len(got)]
            offset += len(got)
            log.take(offset)
        await asyncio.gather(*appending)
        assert log.end == len(model)

    asyncio.run(play())


async def test_single_bytes_share_blocks() -> None:
    log = OutputLog()

    for _ in range(AHEAD):
        await log.append(b"x")

    assert len(log.read(0, AHEAD)) <= AHEAD // (64 * 1024)


async def test_appending_waits_until_room_is_taken() -> None:
    log = OutputLog()
    await log.append(bytes(AHEAD))
    appending = asyncio.create_task(log.append(b"one more"))
    await _settle()
    waited = not appending.done() and log.full

    log.take(8)
    await appending

    assert waited
    assert log.end == AHEAD + 8


async def test_a_reader_waits_for_bytes_and_for_the_end() -> None:
    log = OutputLog()
    first = asyncio.create_task(_wait(log, 0))
    second = asyncio.create_task(_wait(log, 3))
    await _settle()

    await log.append(b"abc")
    await first
    waited = not second.done()
    log.close()
    await second

    assert waited


async def test_data_of_concurrent_appends_stays_together() -> None:
    log = OutputLog(1000, 1000)
    pieces = [bytes([number]) * 2500 for number in range(4)]
    appending = asyncio.gather(*(log.append(piece) for piece in pieces))

    got = b""
    while len(got) < 10_000:
        await _wait(log, len(got))
        got += _read(log, len(got))
        log.take(len(got))
    await appending

    assert got == b"".join(pieces)


async def test_close_ends_waiting_appends() -> None:
    log = OutputLog()
    await log.append(bytes(AHEAD))
    appending = asyncio.create_task(log.append(b"lost"))
    await _settle()

    log.close()
    await appending
    await log.append(b"lost as well")

    assert log.end == AHEAD


async def test_refuses_to_read_dropped_bytes() -> None:
    log = OutputLog()
    for _ in range(4):
        await log.append(bytes(AHEAD))
        log.take(log.end)

    assert 0 < log.start <= log.end - BEHIND
    with pytest.raises(ValueError, match="is not kept"):
        log.read(log.start - 1, 1)
    with pytest.raises(ValueError, match="is not kept"):
        log.read(log.end + 1, 1)


async def test_a_cleared_log_keeps_nothing() -> None:
    log = OutputLog()
    await log.append(b"some")

    log.clear()

    assert (log.size, log.start, log.closed) == (0, 4, True)
