"""What a job wrote and whoever takes it has not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from slipway_protocol.schema import MAX_DATA

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._run.job_report import PhaseReport
    from slipway_protocol.messages import Phase, Stream

    Piece = tuple[Phase, Stream, bytes]


class Watcher(Protocol):
    """Hears of a job's phases, each in its place among the output. No method may wait."""

    def began(self, phase: Phase) -> None:
        """``phase`` has begun; its output follows."""

    def ended(self, phase: Phase, report: PhaseReport) -> None:
        """``phase`` is over, and all of its output has been taken."""

    def done(self) -> None:
        """The agent has said all; told at once, however much output has not been taken yet."""


class Outlet:
    """A queue of output, bounded by the credit of the streams that end in it.

    Small pieces are joined: credit bounds the bytes, and a guest could send each alone.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[Phase, Stream, bytearray] | Callable[[], None]] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, phase: Phase, stream: Stream, data: bytes) -> None:
        """Take what came, without waiting."""
        last = self._items[-1] if self._items else None
        if (
            isinstance(last, tuple)
            and last[0] is phase
            and last[1] is stream
            and len(last[2]) < MAX_DATA
        ):
            last[2].extend(data)
        else:
            self._items.append((phase, stream, bytearray(data)))
        self._changed.set()

    def call(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called when all that was put before has been taken."""
        self._items.append(tell)
        self._changed.set()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._changed.set()

    async def take(self) -> Piece | None:
        """The oldest piece; None at the end."""
        while True:
            while not self._items:
                if self._closed:
                    return None
                self._changed.clear()
                await self._changed.wait()
            item = self._items.popleft()
            if isinstance(item, tuple):
                phase, stream, data = item
                return phase, stream, bytes(data)
            item()
