"""Bytes on their way to the guest, kept until they are acknowledged."""

from __future__ import annotations

from collections import deque

# Chunks smaller than this are joined: many small chunks would take more memory than their bytes.
SMALL_BYTES = 4096


class SendQueue:
    """Bytes by sequence number, from the first that is not acknowledged.

    Sequence numbers are those of ``tcp_sender``: not reduced modulo 2**32. Chunks are kept as they
    come, and pieces of them are views, so that bytes are copied only where a segment takes them
    from several chunks.
    """

    __slots__ = ("_chunks", "_cursor", "_cursor_at", "_head_at", "end", "start")

    def __init__(self, start: int) -> None:
        self._chunks: deque[bytes] = deque()
        self.start = start
        self.end = start
        self._head_at = start
        # The chunk that ``cut`` used last, and its sequence number.
        self._cursor = 0
        self._cursor_at = start

    @property
    def size(self) -> int:
        """Number of bytes that are not acknowledged."""
        return self.end - self.start

    def append(self, data: bytes) -> None:
        """Add bytes at the end; the queue keeps ``data`` itself."""
        chunks = self._chunks
        if chunks and len(chunks[-1]) + len(data) <= SMALL_BYTES:
            chunks[-1] += data
        else:
            chunks.append(data)
        self.end += len(data)

    def cut(self, sequence: int, count: int) -> bytes | memoryview:
        """Return ``count`` bytes from ``sequence`` on; they stay in the queue.

        All of them are in the queue, and ``count`` is at least 1.
        """
        self._seek(sequence)
        chunk = self._chunks[self._cursor]
        begin = sequence - self._cursor_at
        if begin == 0 and count == len(chunk):
            return chunk
        if begin + count <= len(chunk):
            return memoryview(chunk)[begin : begin + count]
        pieces = []
        while count:
            self._seek(sequence)
            chunk = self._chunks[self._cursor]
            begin = sequence - self._cursor_at
            piece = memoryview(chunk)[begin : begin + count]
            pieces.append(piece)
            sequence += len(piece)
            count -= len(piece)
        return b"".join(pieces)

    def drop_until(self, sequence: int) -> None:
        """Forget the bytes before ``sequence``, which is at most ``end``."""
        self.start = sequence
        chunks = self._chunks
        while chunks and self._head_at + len(chunks[0]) <= sequence:
            self._head_at += len(chunks.popleft())
            self._cursor -= 1
        if self._cursor < 0:
            self._cursor, self._cursor_at = 0, self._head_at

    def clear(self) -> None:
        """Forget all bytes."""
        self.drop_until(self.end)

    def _seek(self, sequence: int) -> None:
        if sequence < self._cursor_at:
            self._cursor, self._cursor_at = 0, self._head_at
        while self._cursor_at + len(self._chunks[self._cursor]) <= sequence:
            self._cursor_at += len(self._chunks[self._cursor])
            self._cursor += 1
