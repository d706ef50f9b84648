"""Sparse files: extents of a spool, with holes between them that read as zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway_initramfs.disk.spool import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway_initramfs.disk.spool import Extent


@dataclass(frozen=True, slots=True)
class SparseFile:
    """Content of a sparse file of ``size`` bytes.

    ``pieces`` are (offset in the file, extent), in order and without overlaps.
    """

    size: int
    pieces: tuple[tuple[int, Extent], ...]

    @property
    def holes(self) -> int:
        """Number of bytes outside of pieces."""
        return self.size - sum(extent.size for _, extent in self.pieces)

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in chunks."""
        position = 0
        for offset, extent in self.pieces:
            yield from _yield_zeros(offset - position)
            yield from extent.chunks()
            position = offset + extent.size
        yield from _yield_zeros(self.size - position)


def _yield_zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, CHUNK):
        yield bytes(min(CHUNK, size - start))
