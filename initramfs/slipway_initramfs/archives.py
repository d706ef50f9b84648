"""Debian package files: an ar archive around a compressed tar archive (deb(5))."""

from __future__ import annotations

import hashlib
import lzma
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import zstandard

from slipway_initramfs.errors import ImageCorrupted
from slipway_initramfs.spool import CHUNK, Spool

if TYPE_CHECKING:
    from pathlib import Path

MAX_UNPACKED = 4 << 30
"""Most bytes that one package may unpack to."""
MAX_DICTIONARY = 256 << 20
"""Most memory that a decompressor may ask for; ``xz -9`` takes 65 MiB."""

_MAGIC = b"!<arch>\n"
_HEADER = 60
_MAX_MEMBERS = 16


@dataclass(slots=True)
class _Slice:
    """``size`` bytes of an open file from where it stands."""

    file: BinaryIO
    size: int

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.size))
        self.size -= len(data)
        return data


class _XzReader:
    """Decompressed bytes of an xz stream, a bounded amount at a time."""

    def __init__(self, source: _Slice) -> None:
        self._source = source
        self._decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY)

    def read(self, size: int) -> bytes:
        while not self._decoder.eof:
            data = self._source.read(CHUNK) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not data:
                raise EOFError("the xz stream is cut short")
            if out := self._decoder.decompress(data, size):
                return out
        return b""


class _GzipReader:
    """Decompressed bytes of a gzip stream, a bounded amount at a time."""

    def __init__(self, source: _Slice) -> None:
        self._source = source
        self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._pending = b""

    def read(self, size: int) -> bytes:
        while not self._decoder.eof:
            data = self._pending or self._source.read(CHUNK)
            if not data:
                raise EOFError("the gzip stream is cut short")
            out = self._decoder.decompress(data, size)
            self._pending = self._decoder.unconsumed_tail
            if out:
                return out
        return b""


class _ZstdReader:
    """Decompressed bytes of a zstd frame.

    The library cannot bound what one call returns, and its stream reader takes a stream that is cut
    short for a whole one; but a step of input becomes 32 MiB at most (a block of 128 KiB from 4
    bytes).
    """

    _STEP = 1024

    def __init__(self, source: _Slice) -> None:
        self._source = source
        factory = zstandard.ZstdDecompressor(max_window_size=MAX_DICTIONARY >> 1)
        self._decoder = factory.decompressobj()

    def read(self, _: int) -> bytes:
        while not self._decoder.eof:
            data = self._source.read(self._STEP)
            if not data:
                raise EOFError("the zstd stream is cut short")
            if out := self._decoder.decompress(data):
                return out
        return b""


def unpack(path: Path, sha256: str, directory: Path | None = None) -> Spool:
    """Return the tar archive of a package's files, decompressed into a spool in ``directory``.

    Raises ImageCorrupted if the file has not the digest ``sha256`` (hexadecimal), is no Debian
    package or is cut short, ImageError if it unpacks to more than MAX_UNPACKED bytes.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ImageCorrupted(
                f"package {path.name} has the digest {found[:16]}... instead of {sha256[:16]}...",
                "It will be downloaded again at the next build.",
            )
        return read_data(file, path.name, directory)


def read_data(file: BinaryIO, name: str, directory: Path | None = None) -> Spool:
    """Find a package's data archive in ``file`` and decompress it; ``name`` is for messages."""
    file.seek(0, 2)
    end = file.tell()
    file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ImageCorrupted(f"{name} is not a Debian package: no ar archive")
    for _ in range(_MAX_MEMBERS):
        header = file.read(_HEADER)
        if len(header) < _HEADER or header[58:] != b"`\n":
            raise ImageCorrupted(f"{name} is not a Debian package: damaged ar header")
        member = header[:16].decode("latin-1").rstrip(" /")
        digits = header[48:58].decode("latin-1").strip()
        if not (digits.isascii() and digits.isdigit()) or int(digits) > end - file.tell():
            raise ImageCorrupted(f"package {name} is cut short in its member {member!r}")
        size = int(digits)
        if member.startswith("data.tar"):
            return _decompress(_Slice(file, size), member.removeprefix("data.tar"), name, directory)
        file.seek(size + size % 2, 1)
    raise ImageCorrupted(f"package {name} has no data.tar among its first {_MAX_MEMBERS} members")


def _decompress(source: _Slice, suffix: str, name: str, directory: Path | None) -> Spool:
    spool = Spool(directory)
    what = f"package {name}"
    try:
        match suffix:
            case ".xz":
                return spool.fill(_XzReader(source), limit=MAX_UNPACKED, what=what)
            case ".gz":
                return spool.fill(_GzipReader(source), limit=MAX_UNPACKED, what=what)
            case ".zst":
                return spool.fill(_ZstdReader(source), limit=MAX_UNPACKED, what=what)
            case "":
                return spool.fill(source, limit=MAX_UNPACKED, what=what)
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise ImageCorrupted(f"package {name}: damaged data.tar{suffix}: {error}") from error
    raise ImageCorrupted(f"package {name}: data.tar{suffix} has an unknown compression")
