"""A clock that a test puts forward, so that hours of waiting take no time and no luck.

Timers of an event loop (``asyncio.timeout``, ``call_later``, ``asyncio.sleep``) see the time pass
at once; code that reads ``time.monotonic()`` itself does not. The loop has to be the test's own, as
that of the fake machines is: a real machine knows nothing of this clock.
"""

from __future__ import annotations

import asyncio


class Clock:
    """The clock of the running event loop: the real one, and what was added to it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._real = self._loop.time
        self._ahead = 0.0
        self._loop.time = self._now  # type: ignore[method-assign]

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass: the timers that are due by then are run next."""
        self._ahead += seconds
        self._loop.call_soon(lambda: None)  # a loop that sleeps already would not look at its clock

    def _now(self) -> float:
        return self._real() + self._ahead
