"""Entries of the pool: the idle clones of one snapshot key, and their desired number."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._run.guest import Guest
    from slipway._snapshots.key import SnapshotKey

# Seconds to wait after a failure; doubled each time, until a clone has served a run.
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 300.0


@dataclass(eq=False, slots=True)
class IdleClone:
    """Clone that waits for a run.

    ``watch`` ends with the clone's machine; ``memory`` bytes are reserved for the clone.
    """

    guest: Guest
    watch: asyncio.Task[int]
    memory: int


@dataclass(eq=False, slots=True)
class PoolEntry:
    """Idle clones of one snapshot key.

    ``desired`` clones shall wait, and never fewer than ``minimum``. ``used`` is the time of the
    last demand, ``shrunk`` that of the last decrease for lack of demand, by the event loop's clock.
    """

    key: SnapshotKey
    assets: Assets
    options: Options
    desired: int = 0
    minimum: int = 0
    used: float = 0.0
    shrunk: float = 0.0
    ready: deque[IdleClone] = field(default_factory=deque)
    backoff: float = 0.0
    retry_at: float = 0.0

    @property
    def is_short(self) -> bool:
        """True if a clone is to be made now."""
        now = asyncio.get_running_loop().time()
        return len(self.ready) < self.desired and now >= self.retry_at

    def back_off(self) -> None:
        """Wait before the next attempt, longer after each failure."""
        self.backoff = min(max(2 * self.backoff, FIRST_BACKOFF), LONGEST_BACKOFF)
        self.postpone(self.backoff)

    def postpone(self, seconds: float) -> None:
        """Wait at least ``seconds`` before the next attempt."""
        self.retry_at = max(self.retry_at, asyncio.get_running_loop().time() + seconds)
