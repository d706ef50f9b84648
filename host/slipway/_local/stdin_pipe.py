"""Pipe from the handle of a run to the program's stdin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slipway._util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class StdinPipe:
    """Pipe to the stdin of a program, with room for a single piece."""

    def __init__(self) -> None:
        self._piece: bytes | None = None
        self._is_closed = False
        self._has_reader = True
        self._changed = asyncio.Event()
        self._emptied = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Wait for room, and add ``data``; without a reader ``data`` is dropped.

        Raises:
            InputError: the pipe has been closed.
        """
        while self._piece is not None and self._has_reader:
            self._emptied.clear()
            await self._emptied.wait()
        if self._is_closed:
            raise InputError("stdin has been closed", "Write before you close it.")
        if self._has_reader:
            self._piece = data
            self._changed.set()

    def close(self) -> None:
        """Put the end of file behind the last piece."""
        self._is_closed = True
        self._changed.set()

    def drop_reader(self) -> None:
        """Drop the waiting piece, and all later ones."""
        self._has_reader = False
        self._piece = None
        self._emptied.set()

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the pieces as they are written, until the pipe is closed."""
        while True:
            while self._piece is None:
                if self._is_closed:
                    return
                self._changed.clear()
                await self._changed.wait()
            piece, self._piece = self._piece, None
            self._emptied.set()
            yield piece
