"""Queue of a job's output, between the agent's connection and one reader."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from copy import copy
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from slipway._run.output_sink import FlowControl
    from slipway_protocol.messages import Phase, Stream

    Piece = tuple[Phase, Stream, bytes]

# Pieces of this size or more are not joined. The value of slipway_protocol.schema.MAX_DATA, which
# is not imported here: that takes 9 ms of each start before QEMU runs.
MAX_JOINED = 60 * 1024
# What stands between pieces of output, such as the start of a phase; never a tuple.
_Mark = TypeVar("_Mark")


class OutputQueue(Generic[_Mark]):
    """Output and marks in their order, for one reader.

    ``bound`` bytes may wait at the agent's expense: credit for them is released at once. For what
    is beyond it is released as the reader comes back for more, so at most ``bound`` and one window
    of each stream wait. A piece counts as taken when the reader asks for the next one.
    """

    def __init__(self, bound: int = 0) -> None:
        self.size = 0  # bytes of output that wait
        self._bound = bound
        self._items: deque[_Piece | _Mark] = deque()
        # Bytes of each stream whose credit is not released.
        self._withheld: Counter[Stream] = Counter()
        self._is_lifted = False
        self._changed = asyncio.Event()
        self._is_closed = False
        self._failure: Exception | None = None
        self._flow: FlowControl | None = None

    def connect(self, flow: FlowControl) -> None:
        """See :meth:`slipway._run.output_sink.OutputSink.connect`."""
        self._flow = flow

    def disconnect(self) -> None:
        """Forget the flow: the job is over, and output that waits must not keep its machine."""
        self._flow = None
        self._withheld.clear()

    def put_output(self, phase: Phase, stream: Stream, data: bytes) -> None:
        """Add output; small pieces that wait are joined.

        Credit bounds the bytes, and a guest could send each in a message of its own.
        """
        size = len(data)
        last = self._items[-1] if self._items else None
        if isinstance(last, _Piece) and last.accepts(phase, stream):
            last.append(data)
        else:
            self._items.append(_Piece(phase, stream, data))
        is_full = not self._is_lifted and self.size >= self._bound
        self.size += size
        if is_full:
            self._withheld[stream] += size
        else:
            self._release(stream, size)
        self._changed.set()

    def put(self, mark: _Mark) -> None:
        """Add ``mark`` behind all output."""
        self._items.append(mark)
        self._changed.set()

    def put_latest(self, mark: _Mark) -> None:
        """Add ``mark`` in the place of an older one of its type that waits at the end."""
        if self._items and type(self._items[-1]) is type(mark):
            self._items.pop()
        self.put(mark)

    def lift_bound(self) -> None:
        """Release all credit, now and from now on: the job is about to end."""
        self._is_lifted = True
        self._release_withheld()

    def close(self, failure: Exception | None = None) -> None:
        """Let the reader come to an end behind all that waits: None, or ``failure``."""
        self._is_closed, self._failure = True, failure
        self._changed.set()

    async def take(self) -> Piece | _Mark | None:
        """Return the oldest piece or mark, and None behind the last.

        Raises:
            Exception: the failure that the queue was closed with, behind the last.
        """
        self._release_withheld()
        while not self._items:
            if self._failure is not None:
                raise copy(self._failure)  # a traceback would hold the reader and its results
            if self._is_closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        item = self._items.popleft()
        if not isinstance(item, _Piece):
            return item
        self.size -= item.size
        return item.phase, item.stream, bytes(item.data)

    def _release_withheld(self) -> None:
        """Release withheld credit, as far as released bytes that wait fit the bound.

        Streams take turns. Counts for each stream, not for each piece, keep this small.
        """
        room = self._bound - (self.size - self._withheld.total())
        while self._withheld and (room > 0 or self._is_lifted):
            stream = next(iter(self._withheld))
            size = self._withheld.pop(stream)
            count = size if self._is_lifted else min(size, room)
            if count < size:
                self._withheld[stream] = size - count
            room -= count
            self._release(stream, count)

    def _release(self, stream: Stream, size: int) -> None:
        if self._flow is not None:
            self._flow.release(stream, size)


class _Piece:
    """Output of one stream that waits; ``bytes`` while it has not been joined."""

    __slots__ = ("data", "phase", "stream")

    def __init__(self, phase: Phase, stream: Stream, data: bytes) -> None:
        self.phase = phase
        self.stream = stream
        self.data: bytes | bytearray = data

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return len(self.data)

    def accepts(self, phase: Phase, stream: Stream) -> bool:
        """Return whether more output of this kind may be joined."""
        return self.phase is phase and self.stream is stream and len(self.data) < MAX_JOINED

    def append(self, data: bytes) -> None:
        """Join ``data``."""
        if isinstance(self.data, bytes):
            self.data = bytearray(self.data)
        self.data += data
