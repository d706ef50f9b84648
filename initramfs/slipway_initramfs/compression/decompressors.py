"""Decompressors with bounded output: gzip, zstd, xz.

Each reader has a source with a ``read`` method and returns at most the requested number of bytes: a
decompression bomb costs no more than the reader's own limit. Truncated, damaged or trailing data
raises DamagedStream, which callers turn into an ImageError that names the stream.
"""

from __future__ import annotations

import lzma
import zlib
from typing import TYPE_CHECKING, Protocol

import zstandard

from slipway_initramfs.disk.spool import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.disk.spool import Readable

# Memory limit of a decompressor, in bytes; ``xz -9`` takes 65 MiB.
MAX_DICTIONARY = 256 << 20
# Largest window of a zstd frame, in bytes: that of ``zstd --long``; ``zstd -19`` takes 8 MiB.
MAX_WINDOW = 128 << 20
# Limit on gzip members, and on zstd frames and blocks beyond one per KiB of output.
#
# Empty pieces cost time, not memory, and a limit on the output never stops them.
MAX_PIECES = 1 << 20

# Compressed bytes fed to the inflater at once. It copies the unused rest.
_STEP = 64 << 10
# Largest block of a zstd frame, decompressed (RFC 8878, section 3.1.1.2.4).
_BLOCK = 128 << 10
_FRAME = 0xFD2FB528
# Magic numbers of zstd frames; the last four bits of a skippable frame's are free.
_SKIPPABLE = 0x184D2A50


class DamagedStream(Exception):
    """A compressed stream breaks the rules of its format; the text says how."""


class Inflater(Protocol):
    """Decoder of a gzip member: the interface of ``zlib.decompressobj``."""

    @property
    def eof(self) -> bool:
        """Return True after the end of the member."""
        ...

    @property
    def unconsumed_tail(self) -> bytes:
        """Input that the requested output did not need."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the member."""
        ...

    def decompress(self, data: memoryview, max_length: int, /) -> bytes:
        """Return at most ``max_length`` bytes of output."""
        ...


def _create_inflater() -> Inflater:
    """Return a decoder of a gzip member that checks the member's CRC and length."""
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


class GzipReader:
    """Decompressed bytes of consecutive gzip members (RFC 1952).

    Only zeros may follow the last member, as on tapes and as gzip(1) allows.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._inflater = _create_inflater()
        self._input = memoryview(b"")
        self._members = 1

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, empty bytes at the end.

        Raises:
            DamagedStream: the stream is truncated or damaged.
        """
        while True:
            if self._inflater.eof and not self._start_member():
                return b""
            if not self._refill_input():
                raise DamagedStream("the gzip stream is truncated")
            piece = self._input[:_STEP]
            try:
                out = self._inflater.decompress(piece, size)
            except zlib.error as error:
                raise DamagedStream(f"the gzip stream is damaged: {error}") from error
            left = len(self._inflater.unconsumed_tail) or len(self._inflater.unused_data)
            self._input = self._input[len(piece) - left :]
            if out:
                return out

    def _refill_input(self) -> bool:
        if not self._input:
            self._input = memoryview(self._source.read(CHUNK))
        return bool(self._input)

    def _start_member(self) -> bool:
        """Prepare for the next member; return False at the end of the stream."""
        if not self._refill_input():
            return False
        if self._input[0] == 0:
            while self._refill_input():
                if self._input.tobytes().strip(b"\0"):
                    raise DamagedStream("garbage after the end of the gzip stream")
                self._input = memoryview(b"")
            return False
        if self._input[0] != 0x1F:
            raise DamagedStream("garbage after the end of the gzip stream")
        self._members += 1
        if self._members > MAX_PIECES:
            raise DamagedStream(f"more than {MAX_PIECES} gzip members")
        self._inflater = _create_inflater()
        return True


class ZstdReader:
    """Decompressed bytes of consecutive zstd frames (RFC 8878).

    The library cannot bound the output of a call, and accepts a truncated stream as complete. This
    reader therefore splits frames into blocks, and decodes only as many blocks as may be returned.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._factory = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._input = bytearray()
        self._output = memoryview(b"")
        self._decoder: zstandard.ZstdDecompressionObj | None = None
        self._checksum = 0
        self._pieces = 0
        self._produced = 0
        self._started = False

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, empty bytes at the end.

        Raises:
            DamagedStream: the stream is truncated or damaged.
        """
        while not self._output:
            if self._decoder is None:
                if not self._start_frame():
                    return b""
            else:
                self._decode_blocks(self._decoder, max(1, size // _BLOCK))
        out = self._output[:size]
        self._output = self._output[size:]
        return out.tobytes()

    def _fill_input(self, size: int) -> bool:
        """Buffer ``size`` bytes of input; return False at the end of the source."""
        while len(self._input) < size:
            data = self._source.read(CHUNK)
            if not data:
                return False
            self._input += data
        return True

    def _require_input(self, size: int) -> None:
        if not self._fill_input(size):
            raise DamagedStream("the zstd stream is truncated")

    def _count_piece(self) -> None:
        self._pieces += 1
        if self._pieces - (self._produced >> 10) > MAX_PIECES:
            raise DamagedStream("the zstd stream has too many small blocks")

    def _start_frame(self) -> bool:
        """Read the header of the next data frame, skipping others; return False at the end."""
        while self._fill_input(1) or not self._started:
            self._require_input(8)
            self._started = True
            self._count_piece()
            magic = int.from_bytes(self._input[:4], "little")
            if magic & ~0xF == _SKIPPABLE:
                self._skip_frame(int.from_bytes(self._input[4:8], "little"))
            elif magic == _FRAME:
                self._start_decoder()
                return True
            else:
                raise DamagedStream(f"{bytes(self._input[:4])!r} is not the start of a zstd frame")
        return False

    def _skip_frame(self, size: int) -> None:
        del self._input[:8]
        while size:
            self._require_input(1)
            passed = min(size, len(self._input))
            del self._input[:passed]
            size -= passed

    def _start_decoder(self) -> None:
        """Feed the frame header to a new decoder (RFC 8878, section 3.1.1.1)."""
        descriptor = self._input[4]
        single_segment = descriptor >> 5 & 1
        content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
        size = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3] + content_size
        self._require_input(size)
        self._checksum = 4 * (descriptor >> 2 & 1)
        self._decoder = self._factory.decompressobj()
        self._feed_decoder(self._decoder, size)

    def _decode_blocks(self, decoder: zstandard.ZstdDecompressionObj, most: int) -> None:
        """Decode up to ``most`` blocks of the frame."""
        end = 0
        for _ in range(most):
            self._require_input(end + 3)
            self._count_piece()
            header = int.from_bytes(self._input[end : end + 3], "little")
            last, kind, size = header & 1, header >> 1 & 3, header >> 3
            if size > _BLOCK or kind == 3:
                raise DamagedStream("a zstd frame has an invalid block")
            # A block of kind 1 repeats a single byte.
            end += 3 + (1 if kind == 1 else size) + self._checksum * last
            self._require_input(end)
            if last:
                self._decoder = None
                break
        self._feed_decoder(decoder, end)
        if self._decoder is None and not decoder.eof:
            raise DamagedStream("a zstd frame does not end after its last block")

    def _feed_decoder(self, decoder: zstandard.ZstdDecompressionObj, size: int) -> None:
        piece = bytes(memoryview(self._input)[:size])
        del self._input[:size]
        try:
            self._output = memoryview(decoder.decompress(piece))
        except zstandard.ZstdError as error:
            raise DamagedStream(f"the zstd stream is damaged: {error}") from error
        self._produced += len(self._output)


class XzReader:
    """Decompressed bytes of one xz stream; data after the stream is ignored, as in dpkg."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY)

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, empty bytes at the end.

        Raises:
            DamagedStream: the stream is truncated or damaged.
        """
        while not self._decoder.eof:
            data = self._source.read(CHUNK) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not data:
                raise DamagedStream("the xz stream is truncated")
            try:
                out = self._decoder.decompress(data, size)
            except lzma.LZMAError as error:
                raise DamagedStream(f"the xz stream is damaged: {error}") from error
            if out:
                return out
        return b""


# Readers by the name of the compression.
READERS: dict[str, Callable[[Readable], Readable]] = {
    "gzip": GzipReader,
    "zstd": ZstdReader,
    "xz": XzReader,
    "none": lambda source: source,
}
