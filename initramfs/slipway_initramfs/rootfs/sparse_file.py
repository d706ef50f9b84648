"""Files with holes: bytes of a spool with zeros between them that are nowhere written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway_initramfs.disk.spool import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway_initramfs.disk.spool import Extent


@dataclass(frozen=True, slots=True)
class SparseFile:
    """A file's content of ``size`` bytes.

    ``pieces`` are offsets in the file and the bytes there, in order and without overlaps.
    """

    size: int
    pieces: tuple[tuple[int, Extent], ...]

    @property
    def holes(self) -> int:
        """Bytes that are in no piece."""
        return self.size - sum(extent.size for _, extent in self.pieces)

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes, a chunk at a time."""
        position = 0
        for offset, extent in self.pieces:
            yield from _yield_zeros(offset - position)
            yield from extent.chunks()
            position = offset + extent.size
        yield from _yield_zeros(self.size - position)


def _yield_zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, CHUNK):
        yield bytes(min(CHUNK, size - start))
