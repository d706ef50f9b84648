"""Output stream of which only a window is kept."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import TYPE_CHECKING

from slipway._util.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

# The most bytes that are kept and not yet written to any client. Then appending waits.
AHEAD = MIB
# The fewest bytes that are kept behind the last byte written to a client: more than the kernel
# holds (``output_connection.SEND_BUFFER``).
BEHIND = MIB

# Smaller pieces are joined to blocks: a program can write each byte alone, and an object for each
# byte would have fifty times its size.
_SMALL = 16 * 1024
_BLOCK = 64 * 1024
# Only whole pieces are dropped, so that pieces must not be large.
_LARGEST = 256 * 1024


class OutputLog:
    """Append-only stream of bytes; offsets count from its beginning.

    At most ``ahead`` bytes are kept from ``taken`` on, where bytes are not yet written to a client.
    Before ``taken`` at least ``behind`` bytes are kept (or all, if fewer), and at most a piece
    (256 KiB) more.

    Attributes:
        end: offset after the last byte.
        taken: offset after the last byte that has been written to a client.
        closed: nothing is appended any more.
    """

    def __init__(self, ahead: int = AHEAD, behind: int = BEHIND) -> None:
        self._ahead = ahead
        self._behind = behind
        self._largest = min(_LARGEST, ahead)
        self._starts: list[int] = []
        self._pieces: list[bytes | bytearray] = []
        # The last piece is a block that may still grow.
        self._growing = False
        self.end = 0
        self.taken = 0
        self.closed = False
        self._appending = asyncio.Lock()
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._watchers: list[Callable[[], None]] = []
        self._is_reporting = False

    @property
    def start(self) -> int:
        """Offset of the oldest byte that is kept."""
        return self._starts[0] if self._starts else self.end

    @property
    def size(self) -> int:
        """Number of bytes that are kept."""
        return self.end - self.start

    @property
    def full(self) -> bool:
        """True while a task waits to append."""
        return self._appending.locked()  # the task that holds the lock only waits for room

    async def append(self, data: bytes) -> None:
        """Append ``data``; wait while the window is full. After the close, data is dropped.

        Several tasks may append at once: the data of each stays together. The data of a task that
        is cancelled is appended as a whole or not at all, unless it is larger than 256 KiB.
        """
        async with self._appending:
            for begin in range(0, len(data), self._largest):
                piece = data[begin : begin + self._largest]  # a slice of all bytes is no copy
                while self._is_full_for(len(piece)):
                    self._room.clear()
                    await self._room.wait()
                if self.closed:
                    return
                self._add(piece)

    def close(self) -> None:
        """Mark the end of the stream."""
        self.closed = True
        self._room.set()
        self._report_growth()

    def clear(self) -> None:
        """Close, and drop all bytes."""
        self.close()
        self.taken = self.end
        self._starts.clear()
        self._pieces.clear()

    def watch(self, call: Callable[[], None]) -> None:
        """Call ``call`` soon after bytes have been appended, once for all of them, or the close."""
        self._watchers.append(call)

    def unwatch(self, call: Callable[[], None]) -> None:
        """Stop calling ``call``, which need not be watching."""
        if call in self._watchers:
            self._watchers.remove(call)

    def read(self, offset: int, most: int) -> list[bytes | memoryview]:
        """Return up to ``most`` bytes from ``offset`` on, in pieces; large pieces are not copied.

        Raises:
            ValueError: the byte at ``offset`` is not kept.
        """
        if not self.start <= offset <= self.end:
            raise ValueError(f"byte {offset} is not kept; bytes {self.start} to {self.end} are")
        if offset == self.end:
            return []
        index = bisect_right(self._starts, offset) - 1
        skip = offset - self._starts[index]
        parts: list[bytes | memoryview] = []
        for piece in self._pieces[index:]:
            part: bytes | memoryview = memoryview(piece)[skip : skip + most]
            if self._growing and piece is self._pieces[-1]:
                part = bytes(part)  # a bytearray with a memoryview cannot grow
            parts.append(part)
            most -= len(part)
            skip = 0
            if not most:
                break
        return parts

    def take(self, offset: int) -> None:
        """Note that all bytes before ``offset`` have been written to a client; drop old bytes."""
        if offset <= self.taken:
            return
        self.taken = offset
        while self._pieces and self._starts[0] + len(self._pieces[0]) <= offset - self._behind:
            # A window has about 200 pieces: moving these costs much less than a system call.
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
        self._report_growth()

    def _report_growth(self) -> None:
        """Have all watchers called in the next turn of the loop: many pieces come in one."""
        if self._watchers and not self._is_reporting:
            self._is_reporting = True
            self._loop.call_soon(self._call_watchers)

    def _call_watchers(self) -> None:
        self._is_reporting = False
        for call in list(self._watchers):
            call()

    def _place(self, piece: bytes | bytearray, *, growing: bool) -> None:
        self._starts.append(self.end)
        self._pieces.append(piece)
        self._growing = growing
