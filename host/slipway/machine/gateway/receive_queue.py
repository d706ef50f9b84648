"""Bytes from the guest, in order, until the host has taken them."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice

# Out-of-order pieces that are kept. The wire keeps the order, so that any are rare.
MOST_PIECES = 64
# Chunks smaller than this are joined, see ``send_queue``.
SMALL_BYTES = 4096


class ReceiveQueue:
    """Bytes in order, and pieces that came too early.

    A payload is a view of its frame. If the frame is of ``bytes`` and nearly all of it is payload,
    the view is kept. Other payloads are copied: a buffer is written to again, and a view keeps the
    whole frame in memory, also the padding that a guest may send behind a packet.
    """

    __slots__ = ("_chunks", "_early", "_early_starts", "held", "next", "size")

    def __init__(self, start: int) -> None:
        self._chunks: deque[memoryview] = deque()
        self._early_starts: list[int] = []
        self._early: list[memoryview] = []
        # Sequence number behind the bytes in order, their number, and that of all kept bytes.
        self.next = start
        self.size = 0
        self.held = 0

    @property
    def is_missing_bytes(self) -> bool:
        """True while pieces wait for bytes before them."""
        return bool(self._early)

    def insert(self, sequence: int, payload: memoryview) -> None:
        """Add the payload of a segment; ``sequence`` is at least ``next``, the payload not empty.

        The caller bounds the payload by the window. Parts of early pieces that overlap, and pieces
        beyond ``MOST_PIECES``, are dropped: the guest sends them again.
        """
        if sequence == self.next:
            self._append(payload)
            if self._early:
                self._append_early()
        else:
            self._keep_early(sequence, payload)

    def peek(self, count: int) -> list[memoryview]:
        """Return the first buffers, at most ``count``; they stay in the queue."""
        return list(islice(self._chunks, count))

    def consume(self, count: int) -> None:
        """Forget the first ``count`` bytes, at most ``size``."""
        self.size -= count
        self.held -= count
        chunks = self._chunks
        while count:
            first = chunks[0]
            if len(first) > count:
                chunks[0] = first[count:]
                return
            count -= len(first)
            chunks.popleft()

    def drop_early(self) -> None:
        """Forget the pieces that came too early."""
        self.held -= sum(map(len, self._early))
        self._early.clear()
        self._early_starts.clear()

    def clear(self) -> None:
        """Forget all bytes."""
        self.drop_early()
        self._chunks.clear()
        self.size = self.held = 0

    def _append(self, payload: memoryview) -> None:
        size = len(payload)
        self.next += size
        self.size += size
        self.held += size
        if self._chunks and len(self._chunks[-1]) + size <= SMALL_BYTES:
            self._chunks[-1] = memoryview(b"".join((self._chunks[-1], payload)))
        else:
            self._chunks.append(_detach(payload))

    def _append_early(self) -> None:
        used = 0
        for start, piece in zip(self._early_starts, self._early, strict=True):
            if start > self.next:
                break
            used += 1
            self.held -= len(piece)
            if start + len(piece) > self.next:
                self._append(piece[self.next - start :])
        del self._early[:used], self._early_starts[:used]

    def _keep_early(self, sequence: int, payload: memoryview) -> None:
        if len(self._early) >= MOST_PIECES:
            return
        at = bisect_right(self._early_starts, sequence)
        if at:
            end_before = self._early_starts[at - 1] + len(self._early[at - 1])
            if end_before > sequence:
                payload = payload[end_before - sequence :]
                sequence = end_before
        if at < len(self._early):
            payload = payload[: max(0, self._early_starts[at] - sequence)]
        if len(payload):
            self._early_starts.insert(at, sequence)
            self._early.insert(at, _detach(payload))
            self.held += len(payload)


def _detach(payload: memoryview) -> memoryview:
    frame = payload.obj
    if isinstance(frame, bytes) and len(frame) * 7 // 8 <= len(payload) >= SMALL_BYTES:
        return payload
    return memoryview(bytes(payload))
