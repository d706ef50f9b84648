"""The clocks of tests: what they jump over, and what they wait for."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from support.clock import Clock, JumpingClock
from support.waiting import wait_until

HOUR = 3600.0


async def test_clock_stands_until_it_is_put_forward() -> None:
    clock = Clock()
    asleep = asyncio.create_task(asyncio.sleep(HOUR))
    await asyncio.sleep(0.001)

    assert not asleep.done()
    clock.advance(HOUR)
    await asleep


async def test_hours_pass_at_once_and_in_their_order() -> None:
    clock = JumpingClock()
    order: list[int] = []
    loop = asyncio.get_running_loop()
    began, real = loop.time(), time.monotonic()
    for hours in (3, 1, 2):
        loop.call_later(hours * HOUR, order.append, hours)

    await asyncio.sleep(4 * HOUR)

    assert order == [1, 2, 3]
    assert clock.jumps == 4
    assert loop.time() - began >= 4 * HOUR > time.monotonic() - real


async def test_timeout_comes_where_nothing_else_does() -> None:
    JumpingClock()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(HOUR):
            await asyncio.Event().wait()


async def test_what_is_ready_comes_before_a_timer() -> None:
    JumpingClock()
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    loop = asyncio.get_running_loop()
    loop.call_soon(theirs.send, b"line\n")

    async with asyncio.timeout(HOUR):
        line = await reader.readline()
    writer.close()
    theirs.close()

    assert line == b"line\n"


async def test_calls_in_other_threads_are_waited_for() -> None:
    JumpingClock()

    async with asyncio.timeout(HOUR):
        await asyncio.to_thread(time.sleep, 0.05)
        await asyncio.to_thread(time.sleep, 0.05)


async def test_threads_that_were_started_are_waited_for() -> None:
    JumpingClock()
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def work() -> None:
        time.sleep(0.05)
        loop.call_soon_threadsafe(done.set)

    threading.Thread(target=work).start()
    async with asyncio.timeout(HOUR):
        await done.wait()


async def test_a_wait_sees_each_moment_between_two_jumps() -> None:
    JumpingClock()
    loop = asyncio.get_running_loop()
    now: list[int] = []
    for hour in range(1, 6):
        loop.call_later(hour * HOUR, now.append, hour)

    await wait_until(lambda: 3 in now, "three hours are over")

    assert now == [1, 2, 3]


async def test_a_wait_in_vain_ends_with_its_sentence() -> None:
    JumpingClock()

    with pytest.raises(AssertionError, match="for this: pigs fly"):
        await wait_until(lambda: False, "pigs fly", limit=0.05)
