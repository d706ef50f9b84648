"""Whatever is done to sessions, in whatever order: nothing of them is left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from slipway._local.runtime import AsyncRuntime
from slipway._util.errors import SlipwayError
from support.fake_machine import FakeLauncher
from support.sessions import nothing_left

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._local.session import LocalSession

ACTS = ("open", "run", "last", "cancel", "fork", "close", "kill", "die", "forget")
# What is done, to which of the sessions, and how many steps of the loop later.
acts = st.tuples(st.sampled_from(ACTS), st.integers(0, 7), st.integers(0, 30))


class Storm:
    """Sessions, and what is under way with them."""

    def __init__(self, runtime: AsyncRuntime, launcher: FakeLauncher) -> None:
        self._runtime = runtime
        self._launcher = launcher
        self._sessions: list[LocalSession] = []
        self.tasks: list[asyncio.Task[None]] = []

    def begin(self, act: str, number: int) -> None:
        """Begin ``act``; it may fail in the ways that it may."""
        if not self._sessions or act == "open":
            self._sessions.append(self._runtime.session("bash"))
            self._go(self._sessions[-1].open)
            return
        session = self._sessions[number % len(self._sessions)]
        match act:
            case "run":
                self._go(lambda: session.run("write note x\nsleep 0.001\nprint x"))
            case "last":
                self._go(lambda: session.run("forever"))
            case "die":
                self._go(lambda: session.run("die"))
            case "fork":
                self._go(lambda: self._fork(session))
            case "close":
                self._go(session.close)
            case "cancel" if self.tasks:
                self.tasks[number % len(self.tasks)].cancel()
            case "kill" if self._launcher.machines:
                min(self._launcher.machines, key=id).agent.die()
            case "forget":
                self._sessions.remove(session)

    def _go(self, work: Callable[[], Awaitable[object]]) -> None:
        async def tolerate() -> None:
            with suppress(SlipwayError):
                await work()

        self.tasks.append(asyncio.create_task(tolerate()))

    async def _fork(self, session: LocalSession) -> None:
        self._sessions.append(await session.fork())


@given(st.lists(acts, min_size=3, max_size=30))
@settings(max_examples=100, deadline=None)
def test_nothing_is_left_of_a_storm(given_acts: list[tuple[str, int, int]]) -> None:
    async def live() -> None:
        launcher = FakeLauncher()
        async with AsyncRuntime(
            images=launcher,
            launcher=launcher,
            max_machines=4,
            cpus=8,
            memory_budget=2**32,
            queue=4,
        ) as runtime:
            storm = Storm(runtime, launcher)
            for act, number, steps in given_acts:
                storm.begin(act, number)
                for _ in range(steps):
                    await asyncio.sleep(0)
            load = runtime.load
            assert load.machines <= 4
        outcomes = await asyncio.gather(*storm.tasks, return_exceptions=True)
        nothing_left(runtime, launcher)
        assert not [e for e in outcomes if e and not isinstance(e, asyncio.CancelledError)]

    asyncio.run(live())
