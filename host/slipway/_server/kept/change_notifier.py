"""Wake-up of tasks that wait for a change of some state."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class ChangeNotifier:
    """Event for conditions of any kind: each waiting task checks its own after every change."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Let all waiting tasks check their conditions."""
        self._changed.set()

    async def wait_until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until ``condition`` holds, for ``seconds`` at most; return its last value."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        return condition()
