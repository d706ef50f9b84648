"""Compressors of archives, in formats that the kernel can unpack."""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from slipway_initramfs.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.disk.spool import Writable

# Start of a legacy frame (doc/lz4_Frame_format.md of lz4, "Legacy frame").
LZ4_MAGIC = 0x184C2102
# Bytes in each block of a legacy frame but the last; fixed by the format.
LZ4_BLOCK = 8 << 20
# Level of the slow mode: 20 % smaller than the fast mode for 10 ms per MB, and as fast to unpack.
#
# Higher levels gain another 3 % and take three times as long.
LZ4_LEVEL = 3
ZSTD_LEVEL = 3
GZIP_LEVEL = 6
# Bytes that a worker deflates at a time.
GZIP_BLOCK = 1 << 20
# How far back deflate (RFC 1951) can refer, in bytes.
GZIP_WINDOW = 32 << 10


class Compressor(Protocol):
    """Interface of a compressor. ``close`` writes the buffered rest and leaves the output open."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""
        ...

    def close(self) -> None:
        """Finish the stream."""
        ...


class Plain:
    """Pass-through without compression, for archives that are small or read at once."""

    def __init__(self, output: Writable) -> None:
        self._output = output

    def write(self, data: bytes) -> None:
        """Write ``data`` through."""
        self._output.write(data)

    def close(self) -> None:
        """Do nothing: no data is buffered."""


class _Workers:
    """Threads, as many as cores, that compress blocks and keep their order."""

    def __init__(self, output: Writable, name: str) -> None:
        self._output = output
        workers = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(workers, name)
        self._pending: deque[Future[bytes]] = deque()
        self._most = workers + 1

    def submit(self, function: Callable[..., bytes], *arguments: object) -> None:
        """Call ``function`` in a worker; its result is written after those of all earlier calls."""
        self._pending.append(self._pool.submit(function, *arguments))
        self._drain(self._most)

    def close(self) -> None:
        """Write the remaining results and end the workers."""
        try:
            self._drain(0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _drain(self, keep: int) -> None:
        while len(self._pending) > keep:
            self._output.write(self._pending.popleft().result())


class Lz4:
    """A legacy frame of lz4, the only format that the kernel's lib/decompress_unlz4.c reads."""

    def __init__(self, output: Writable) -> None:
        self._block = bytearray()
        self._workers = _Workers(output, "lz4")
        output.write(struct.pack("<I", LZ4_MAGIC))

    def write(self, data: bytes) -> None:
        """Take ``data``; whole blocks go to the workers."""
        self._block += data
        while len(self._block) >= LZ4_BLOCK:
            self._workers.submit(_compress_lz4_block, bytes(memoryview(self._block)[:LZ4_BLOCK]))
            del self._block[:LZ4_BLOCK]

    def close(self) -> None:
        """Write the remaining blocks and end the workers."""
        if self._block:
            self._workers.submit(_compress_lz4_block, bytes(self._block))
            self._block.clear()
        self._workers.close()


class Gzip:
    """A single gzip member (RFC 1952): the kernel's lib/decompress_inflate.c reads only the first.

    Blocks are deflated in parallel. Each has the end of the previous block as its dictionary and
    ends at a byte boundary; in order they form a single stream.
    """

    def __init__(self, output: Writable) -> None:
        self._output = output
        self._block = bytearray()
        self._dictionary = b""
        self._crc = self._size = 0
        self._workers = _Workers(output, "gzip")
        # No name, no time, an unknown system.
        output.write(b"\x1f\x8b\x08\0" + bytes(4) + b"\0\xff")

    def write(self, data: bytes) -> None:
        """Take ``data``; whole blocks go to the workers."""
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._block += data
        while len(self._block) >= GZIP_BLOCK:
            self._submit(bytes(memoryview(self._block)[:GZIP_BLOCK]), zlib.Z_SYNC_FLUSH)
            del self._block[:GZIP_BLOCK]

    def close(self) -> None:
        """Write the remaining blocks and the member's end, and end the workers."""
        self._submit(bytes(self._block), zlib.Z_FINISH)
        self._block.clear()
        self._workers.close()
        self._output.write(struct.pack("<II", self._crc, self._size & 0xFFFFFFFF))

    def _submit(self, block: bytes, flush: int) -> None:
        self._workers.submit(_deflate, block, self._dictionary, flush)
        self._dictionary = block[-GZIP_WINDOW:]


class Zstd:
    """A single zstd frame (RFC 8878).

    With one worker or more the library's output does not depend on their number, and hence not on
    the number of cores.
    """

    def __init__(self, output: Writable) -> None:
        import zstandard

        # The window of this level is 2 MiB; lib/decompress_unzstd.c of the kernel allows 128 MiB.
        parameters = zstandard.ZstdCompressionParameters.from_level(
            ZSTD_LEVEL, threads=os.cpu_count() or 1, write_content_size=False
        )
        self._output = output
        self._encoder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def write(self, data: bytes) -> None:
        """Take ``data``; write the finished part to the output."""
        if out := self._encoder.compress(data):
            self._output.write(out)

    def close(self) -> None:
        """Write the rest of the frame."""
        self._output.write(self._encoder.flush())


# Compressors by their names in manifests.
COMPRESSORS: dict[str, Callable[[Writable], Compressor]] = {
    "lz4": Lz4,
    "zstd": Zstd,
    "gzip": Gzip,
    "none": Plain,
}


def create_compressor(name: str, output: Writable) -> Compressor:
    """Return a new compressor that writes to ``output``.

    Raises:
        ImageError: the name is unknown.
    """
    try:
        return COMPRESSORS[name](output)
    except KeyError:
        known = ", ".join(sorted(COMPRESSORS))
        raise ImageError(f"unknown compression {name!r}", f"Known are {known}.") from None


def unpack_lz4(data: bytes, limit: int) -> bytes:
    """Return the content of a legacy frame.

    The frame ends with ``data``, or at a block of length 0 (padding).

    Raises:
        ImageError: the frame is damaged, or its content is longer than ``limit`` bytes.
    """
    import lz4.block

    if len(data) < 4 or struct.unpack_from("<I", data)[0] != LZ4_MAGIC:
        raise ImageError("not a legacy lz4 frame")
    out = bytearray()
    offset = 4
    while offset + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if length == 0:
            break
        if length > len(data) - offset:
            raise ImageError("a legacy lz4 frame is truncated")
        try:
            out += lz4.block.decompress(data[offset : offset + length], LZ4_BLOCK)
        except (lz4.block.LZ4BlockError, ValueError, OverflowError) as error:
            raise ImageError(f"a legacy lz4 frame is damaged: {error}") from error
        if len(out) > limit:
            raise ImageError(f"a legacy lz4 frame unpacks to more than {limit >> 20} MiB")
        offset += length
    return bytes(out)


def _compress_lz4_block(block: bytes) -> bytes:
    import lz4.block

    compressed: bytes = lz4.block.compress(
        block, mode="high_compression", compression=LZ4_LEVEL, store_size=False
    )
    return struct.pack("<I", len(compressed)) + compressed


def _deflate(block: bytes, dictionary: bytes, flush: int) -> bytes:
    encoder = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=dictionary)
    return encoder.compress(block) + encoder.flush(flush)
