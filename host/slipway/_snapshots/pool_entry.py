"""The clones of one kind that wait, and how many there are to be."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._run.guest import Guest
    from slipway._snapshots.key import Shape

# After a failure: doubled each time, until a clone has been of use.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0


@dataclass(eq=False, slots=True)
class Idle:
    """A clone that waits, who looks after it, and the bytes that are reserved for it."""

    guest: Guest
    watch: asyncio.Task[int]
    memory: int


@dataclass(eq=False, slots=True)
class Shelf:
    """The clones of one shape.

    ``target``: how many are to wait, and ``least`` however few are asked for; ``used``: when the
    last one was; ``shrunk``: when there came to be one less, for want of use.
    """

    shape: Shape
    assets: Assets
    options: Options
    target: int = 0
    least: int = 0
    used: float = 0.0
    shrunk: float = 0.0
    ready: deque[Idle] = field(default_factory=deque)
    pause: float = 0.0
    not_before: float = 0.0

    @property
    def is_short(self) -> bool:
        """Whether one is to be made now."""
        return len(self.ready) < self.target and time.monotonic() >= self.not_before

    def failed(self) -> None:
        """Wait before the next attempt, longer each time."""
        self.pause = min(max(2 * self.pause, FIRST_PAUSE), LONGEST_PAUSE)
        self.rest(self.pause)

    def rest(self, seconds: float) -> None:
        """Wait before the next attempt, no shorter than it had to anyway."""
        self.not_before = max(self.not_before, time.monotonic() + seconds)
