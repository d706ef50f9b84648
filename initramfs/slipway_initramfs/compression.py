"""Compressors for the root's archive, in formats that the kernel unpacks by itself."""

from __future__ import annotations

import os
import struct
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from slipway_initramfs.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.cpio import Writable

LZ4_MAGIC = 0x184C2102
"""Start of a legacy frame (doc/lz4_Frame_format.md of lz4, "Legacy frame")."""
LZ4_BLOCK = 8 << 20
"""Bytes in each block of a legacy frame but the last; fixed by the format."""
LZ4_LEVEL = 3
"""Of the slow mode: a fifth smaller than the fast mode for 10 ms per MB, and as fast to unpack.

Higher levels gain 3 % more and take three times as long.
"""


class Compressor(Protocol):
    """Takes bytes in order; ``close`` writes what is held back, but leaves the output open."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""
        ...

    def close(self) -> None:
        """Finish the stream."""
        ...


class Plain:
    """No compression: for archives that are small or read at once."""

    def __init__(self, output: Writable) -> None:
        self._output = output

    def write(self, data: bytes) -> None:
        """Write ``data`` through."""
        self._output.write(data)

    def close(self) -> None:
        """Do nothing: there is nothing held back."""


class Lz4:
    """A legacy frame of lz4, the only one that lib/decompress_unlz4.c of the kernel reads.

    Blocks are compressed side by side, one on each core.
    """

    def __init__(self, output: Writable) -> None:
        self._output = output
        self._block = bytearray()
        workers = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(workers, "lz4")
        self._pending: deque[Future[bytes]] = deque()
        self._most = workers + 1
        output.write(struct.pack("<I", LZ4_MAGIC))

    def write(self, data: bytes) -> None:
        """Take ``data``; whole blocks go to the workers."""
        self._block += data
        while len(self._block) >= LZ4_BLOCK:
            self._submit(bytes(memoryview(self._block)[:LZ4_BLOCK]))
            del self._block[:LZ4_BLOCK]

    def close(self) -> None:
        """Write the remaining blocks and end the workers."""
        try:
            if self._block:
                self._submit(bytes(self._block))
                self._block.clear()
            self._drain(0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _submit(self, block: bytes) -> None:
        self._pending.append(self._pool.submit(_lz4_block, block))
        self._drain(self._most)

    def _drain(self, keep: int) -> None:
        while len(self._pending) > keep:
            block = self._pending.popleft().result()
            self._output.write(struct.pack("<I", len(block)))
            self._output.write(block)


COMPRESSORS: dict[str, Callable[[Writable], Compressor]] = {"lz4": Lz4, "none": Plain}
"""The compressors by the name that a manifest gives them."""


def compressor(name: str, output: Writable) -> Compressor:
    """Return a new compressor that writes to ``output``; ImageError for an unknown name."""
    try:
        return COMPRESSORS[name](output)
    except KeyError:
        known = ", ".join(sorted(COMPRESSORS))
        raise ImageError(f"unknown compression {name!r}", f"Known are {known}.") from None


def unpack_lz4(data: bytes, limit: int) -> bytes:
    """Return the content of a legacy frame; ImageError if it is damaged or longer than ``limit``.

    Ends at the end of ``data`` or at a block of length 0 (padding).
    """
    import lz4.block

    if len(data) < 4 or struct.unpack_from("<I", data)[0] != LZ4_MAGIC:
        raise ImageError("no legacy lz4 frame")
    out = bytearray()
    offset = 4
    while offset + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if length == 0:
            break
        if length > len(data) - offset:
            raise ImageError("a legacy lz4 frame is cut short")
        try:
            out += lz4.block.decompress(data[offset : offset + length], LZ4_BLOCK)
        except (lz4.block.LZ4BlockError, ValueError, OverflowError) as error:
            raise ImageError(f"a legacy lz4 frame is damaged: {error}") from error
        if len(out) > limit:
            raise ImageError(f"a legacy lz4 frame unpacks to more than {limit >> 20} MiB")
        offset += length
    return bytes(out)


def _lz4_block(block: bytes) -> bytes:
    import lz4.block

    compressed: bytes = lz4.block.compress(
        block, mode="high_compression", compression=LZ4_LEVEL, store_size=False
    )
    return compressed
