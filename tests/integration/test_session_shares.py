"""Sessions that give way to other users and keys, on fake machines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from slipway._local.runtime import AsyncRuntime
from slipway._model.events import PhaseStarted
from slipway._util.errors import HostError
from support.fake_machine import FakeLauncher
from support.sessions import nothing_left, until
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._local.session import LocalSession


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
async def runtime(launcher: FakeLauncher) -> AsyncIterator[AsyncRuntime]:
    """A runtime for two machines."""
    async with AsyncRuntime(
        images=launcher, launcher=launcher, max_machines=2, cpus=16, memory_budget=2**32
    ) as made:
        yield made
    nothing_left(made, launcher)


async def open_two(runtime: AsyncRuntime) -> list[LocalSession]:
    """Return two sessions of one key, which have all machines."""
    sessions = [runtime.session("bash", key="greedy") for _ in range(2)]
    for session in sessions:
        await session.open()
    return sessions


async def test_session_that_is_idle_for_longest_gives_way_to_another_key(
    runtime: AsyncRuntime,
) -> None:
    first, second = await open_two(runtime)
    await first.run("print used again")

    result = await runtime.run("print hi", "bash", key="modest")

    assert result.stdout == "hi\n"
    assert (first.state, second.state) == ("open", "ended")
    with pytest.raises(HostError, match="another user or key, with fewer machines"):
        await second.run("print late")


async def test_last_session_of_a_key_does_not_give_way(runtime: AsyncRuntime) -> None:
    sessions = await open_two(runtime)

    other = runtime.session("bash", key="modest")
    await other.open()
    waiting = await runtime.start("print hi", "bash", key="modest")
    await wait_until(lambda: sessions[0].state == "ended", "one of the two has given way")

    assert (sessions[1].state, waiting.position) == ("open", 0)
    await waiting.cancel()


async def test_idle_sessions_do_not_give_way_to_their_own_key(runtime: AsyncRuntime) -> None:
    sessions = await open_two(runtime)

    waiting = await runtime.start("print hi", "bash", key="greedy")

    assert waiting.position == 0
    assert [session.state for session in sessions] == ["open", "open"]
    await waiting.cancel()


async def test_session_with_waiting_runs_gives_way_between_two_of_them(
    runtime: AsyncRuntime,
) -> None:
    session, _ = sessions = await open_two(runtime)
    running = [await each.start("read 1\nprint done", stdin=None) for each in sessions]
    for execution in running:
        await until(execution, PhaseStarted)
    queued = await session.start("print late")
    modest = await runtime.start("print hi", "bash", key="modest")
    interrupted = session.state

    await running[0].stdin.write(b"\n")
    result = await modest.wait()

    assert interrupted == "open"
    assert result.stdout == "hi\n"
    assert (await running[0].wait()).stdout == "\ndone\n"
    with pytest.raises(HostError, match="another user or key"):
        await queued.wait()
    await asyncio.gather(*(each.close() for each in sessions))
