"""Pieces in which a snapshot goes over the control channel, one a datagram.

They come before the message SAVED of :mod:`slipway.vmm.process.control`. No verb begins with the
byte of a kind.
"""

from __future__ import annotations

import os
import struct

from slipway.vmm.pages import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Kind, padding, and the offset of the data that follow, in bytes.
PIECE = struct.Struct("<B7xQ")
OF_MEMORY, OF_STATE = 0, 1
PIECE_BYTES = 32 * 1024

_ZEROS = bytes(PIECE_BYTES)
_ZERO_PAGE = bytes(PAGE)


def write_pieces(channel: int, memory: memoryview, state: bytes) -> None:
    """Write ``memory`` without its pages of zeros, and then ``state``, to ``channel``."""
    for start, data in find_data(memory):
        os.writev(channel, [PIECE.pack(OF_MEMORY, start), data])
    for start in range(0, len(state), PIECE_BYTES):
        data = state[start : start + PIECE_BYTES]
        os.writev(channel, [PIECE.pack(OF_STATE, start), data])


def find_data(memory: memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and a copy of each run of pages of ``memory`` that are not all zeros."""
    for start in range(0, len(memory), PIECE_BYTES):
        # A copy compares much faster than a view.
        piece = bytes(memory[start : start + PIECE_BYTES])
        if piece == _ZEROS[: len(piece)]:
            continue
        begin = None
        for at in range(0, len(piece), PAGE):
            if piece[at : at + PAGE] != _ZERO_PAGE:
                begin = at if begin is None else begin
            elif begin is not None:
                yield start + begin, piece[begin:at]
                begin = None
        if begin is not None:
            yield start + begin, piece[begin:]
