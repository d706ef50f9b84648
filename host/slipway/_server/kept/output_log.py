"""A stream of output of which only a window is kept."""

from __future__ import annotations

import asyncio
from bisect import bisect_right

from slipway._model.options import MIB

AHEAD = MIB
"""Bytes kept that were not yet written to any client. Then whoever appends waits."""
BEHIND = MIB
"""Bytes kept, at least, of what was written. More than a kernel holds back (``SEND_BUFFER``)."""

# Smaller pieces are gathered in blocks: a program can write each byte alone, and an object for each
# would be fifty times its size.
_SMALL = 16 * 1024
_BLOCK = 64 * 1024
# What is dropped is whole pieces, so that none may be large.
_LARGEST = 256 * 1024


class OutputLog:
    """An append-only stream of bytes; offsets count from its beginning.

    From ``taken`` on, what was written to no client yet, there are at most ``ahead`` bytes. Before
    it are at least ``behind``, or all, and at most a piece (256 KiB) more.
    """

    def __init__(self, ahead: int = AHEAD, behind: int = BEHIND) -> None:
        self._ahead = ahead
        self._behind = behind
        self._largest = min(_LARGEST, ahead)
        self._starts: list[int] = []
        self._pieces: list[bytes | bytearray] = []
        # Whether the last piece is a block that may still grow.
        self._growing = False
        self.end = 0
        """Offset behind the last byte."""
        self.taken = 0
        """Offset behind the last byte that was written to a client."""
        self.closed = False
        self._appending = asyncio.Lock()
        self._room = asyncio.Event()
        self._grown = asyncio.Event()

    @property
    def start(self) -> int:
        """Offset of the oldest byte kept."""
        return self._starts[0] if self._starts else self.end

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self.end - self.start

    @property
    def full(self) -> bool:
        """Whether somebody waits to append."""
        return self._appending.locked()  # who holds it waits for room, and for nothing else

    async def append(self, data: bytes) -> None:
        """Add ``data`` at the end; waits while there is no room. After the close it is lost.

        Several may append at once: the data of each stays together. That of one who is cancelled is
        there as a whole or not at all, unless it is larger than 256 KiB.
        """
        async with self._appending:
            for begin in range(0, len(data), self._largest):
                piece = data[begin : begin + self._largest]  # of the whole, bytes make no copy
                while self._is_full_for(len(piece)):
                    self._room.clear()
                    await self._room.wait()
                if self.closed:
                    return
                self._add(piece)

    def close(self) -> None:
        """Nothing more will be appended."""
        self.closed = True
        self._room.set()
        self._grown.set()

    def clear(self) -> None:
        """Close, and keep nothing any more."""
        self.close()
        self.taken = self.end
        self._starts.clear()
        self._pieces.clear()

    async def wait(self, offset: int) -> None:
        """Wait until there are bytes at ``offset``, or it is known that there will be none."""
        while self.end <= offset and not self.closed:
            self._grown.clear()
            await self._grown.wait()

    def read(self, offset: int, most: int) -> list[bytes | memoryview]:
        """Up to ``most`` bytes from ``offset`` on, in pieces; large ones are not copied.

        Raises:
            ValueError: what is at ``offset`` is not kept.
        """
        if not self.start <= offset <= self.end:
            raise ValueError(f"{offset} is not kept: {self.start} to {self.end} are")
        if offset == self.end:
            return []
        index = bisect_right(self._starts, offset) - 1
        skip = offset - self._starts[index]
        parts: list[bytes | memoryview] = []
        for piece in self._pieces[index:]:
            part: bytes | memoryview = memoryview(piece)[skip : skip + most]
            if self._growing and piece is self._pieces[-1]:
                part = bytes(part)  # a bytearray that somebody looks at cannot grow
            parts.append(part)
            most -= len(part)
            skip = 0
            if not most:
                break
        return parts

    def take(self, offset: int) -> None:
        """Note that all before ``offset`` was written to a client; drops what is far behind."""
        if offset <= self.taken:
            return
        self.taken = offset
        while self._pieces and self._starts[0] + len(self._pieces[0]) <= offset - self._behind:
            # A window has a hundred or two of them: moving these is nothing beside a system call.
            del self._starts[0], self._pieces[0]
        self._room.set()

    def _is_full_for(self, size: int) -> bool:
        return self.end + size - self.taken > self._ahead and not self.closed

    def _add(self, piece: bytes) -> None:
        if len(piece) >= _SMALL:
            self._place(piece, growing=False)
        else:
            if not self._growing or not self._pieces or len(self._pieces[-1]) >= _BLOCK:
                self._place(bytearray(), growing=True)
            block = self._pieces[-1]
            assert isinstance(block, bytearray)
            block += piece
        self.end += len(piece)
        self._grown.set()

    def _place(self, piece: bytes | bytearray, *, growing: bool) -> None:
        self._starts.append(self.end)
        self._pieces.append(piece)
        self._growing = growing
