"""Clocks that tests put forward, for tests in which hours pass at once.

Timers of an event loop (``asyncio.timeout``, ``call_later``, ``asyncio.sleep``) see the time pass
at once; code that reads ``time.monotonic()`` itself does not. The loop has to be the test's own, as
that of the fake machines is: a real machine knows nothing of these clocks.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

# Seconds. How often other threads are looked at while the loop waits for one.
_LOOK_SECONDS = 0.001
_CLOCKS: WeakKeyDictionary[asyncio.AbstractEventLoop, JumpingClock] = WeakKeyDictionary()


def find_jumping_clock() -> JumpingClock | None:
    """Return the jumping clock of the running loop, or None."""
    return _CLOCKS.get(asyncio.get_running_loop())


def _patchable(loop: asyncio.AbstractEventLoop) -> Any:
    """Return the loop as an object with replaceable methods."""
    return loop


class Clock:
    """Clock of the running event loop: real time plus a sum that tests advance."""

    def __init__(self) -> None:
        self._loop = _patchable(asyncio.get_running_loop())
        self._real: Callable[[], float] = self._loop.time
        self._ahead = 0.0
        self._loop.time = self._now

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass: the timers that are due by then are run next."""
        self._ahead += seconds
        self._loop.call_soon(lambda: None)  # a loop that sleeps already would not look at its clock

    def _now(self) -> float:
        return self._real() + self._ahead


class JumpingClock(Clock):
    """Clock that jumps to the next timer when the loop has nothing else to do.

    The clock stands while something is ready: a callback, a file descriptor, a call in an executor,
    or any thread that was started since. Work of other processes is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jumps = 0
        self._idle: asyncio.Future[None] | None = None
        self._has_told_idle = False
        self._threads = set(threading.enumerate())
        self._calls: set[asyncio.Future[Any]] = set()
        self._submit: Callable[..., asyncio.Future[Any]] = self._loop.run_in_executor
        self._loop.run_in_executor = self._count_call
        selector = self._loop._selector
        self._wait: Callable[[float | None], list[Any]] = selector.select
        selector.select = self._wait_or_jump
        _CLOCKS[self._loop] = self

    async def idle(self) -> None:
        """Wait until the clock is about to jump; a second call lets the jump happen."""
        if self._idle is None:
            self._idle = self._loop.create_future()
        await self._idle

    def _count_call(
        self, executor: Executor | None, function: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        call = self._submit(executor, function, *arguments)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def _wait_or_jump(self, timeout: float | None = None) -> list[Any]:
        # In this order: what a thread leaves behind when it ends is seen as ready.
        is_busy = self._has_other_work()
        ready = self._wait(0)
        if ready or timeout == 0:
            return ready
        if is_busy:
            return self._wait(_LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS))
        if self._idle is not None and not self._has_told_idle:
            self._has_told_idle = True
            self._idle.set_result(None)
            self._idle = None
            return []
        self._has_told_idle = False
        if timeout is None:  # without a timer, whatever comes comes from outside
            return self._wait(None if self._idle is None else _LOOK_SECONDS)
        self._ahead += timeout
        self.jumps += 1
        return []

    def _has_other_work(self) -> bool:
        # The threads of an executor stay when their calls have ended.
        others = (
            thread
            for thread in threading.enumerate()
            if thread not in self._threads and not thread.name.startswith("asyncio_")
        )
        return bool(self._calls) or any(others)
