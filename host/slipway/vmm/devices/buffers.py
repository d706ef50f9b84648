"""Buffers of guest memory: copies into them, and the work that one call may do with them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Bytes that one call may move: other vCPUs can add chains as fast as they are used, and the chains
# of a hostile guest can all name the same memory. A buffer costs as much as so many bytes.
BUDGET = 2 << 20
BUFFER_COST = 2 << 10


def scatter(data: memoryview, buffers: Iterable[memoryview]) -> int:
    """Write ``data`` into ``buffers``, as far as they reach; return the number of bytes."""
    written = 0
    for buffer in buffers:
        piece = data[written : written + len(buffer)]
        buffer[: len(piece)] = piece
        written += len(piece)
    return written
