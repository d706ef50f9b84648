"""Between a run and whoever holds its handle: events one way, stdin the other."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from slipway._model.errors import InputError
from slipway._model.events import Output, Preparing, Queued

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.errors import SlipwayError
    from slipway._model.events import Event


class EventQueue:
    """Events for one taker. Of output about ``bound`` bytes wait; what else there is is little."""

    def __init__(self, bound: int) -> None:
        self._items: deque[Event] = deque()
        self.size = 0
        """Bytes of output that wait."""
        self._bound = bound
        self._failure: SlipwayError | None = None
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    def lift_bound(self) -> None:
        """Let output be put without waiting from now on."""
        self._bound = 0
        self._emptied.set()

    async def room(self) -> None:
        """Wait until there is room for more output."""
        while self._bound and self.size >= self._bound:
            self._emptied.clear()
            await self._emptied.wait()

    def put(self, event: Event) -> None:
        """Add ``event``."""
        last = self._items[-1] if self._items else None
        # Of these only the newest is worth telling.
        if isinstance(event, Queued | Preparing) and type(last) is type(event):
            self._items.pop()
        if isinstance(event, Output):
            self.size += len(event.data)
        self._items.append(event)
        self._filled.set()

    def fail(self, error: SlipwayError) -> None:
        """Have ``error`` raised behind all events."""
        self._failure = error
        self._filled.set()

    async def take(self) -> Event:
        """The oldest event. Raises the failure after the last."""
        while not self._items:
            if self._failure is not None:
                raise self._failure
            self._filled.clear()
            await self._filled.wait()
        event = self._items.popleft()
        if isinstance(event, Output):
            self.size -= len(event.data)
            self._emptied.set()
        return event


class StdinPipe:
    """Bytes for a program, with room for one piece."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._closed = False
        self._broken = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Add ``data`` when there is room; without a reader any more it is dropped.

        Raises:
            InputError: the pipe has been closed.
        """
        while self._pieces and not self._broken:
            self._emptied.clear()
            await self._emptied.wait()
        if self._closed:
            raise InputError("stdin has been closed", "Write before you close it.")
        if not self._broken:
            self._pieces.append(data)
            self._filled.set()

    def close(self) -> None:
        """End of file behind what was written."""
        self._closed = True
        self._filled.set()

    def hang_up(self) -> None:
        """Nobody reads any more."""
        self._broken = True
        self._pieces.clear()
        self._emptied.set()

    async def read(self) -> AsyncIterator[bytes]:
        """What is written, until it is closed."""
        while True:
            while not self._pieces:
                if self._closed:
                    return
                self._filled.clear()
                await self._filled.wait()
            yield self._pieces.popleft()
            self._emptied.set()
