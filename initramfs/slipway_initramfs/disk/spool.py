"""Spools: anonymous disk space for data that is too large for memory.

A layer is decompressed once into a spool; the tree then refers to the position of each file's
bytes. A spool has no name in the file system, and hence vanishes with a killed build.
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from slipway_initramfs.disk import space
from slipway_initramfs.errors import BuildFailed, ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bytes per read or write.
CHUNK = 1 << 20


class Readable(Protocol):
    """Source of bytes in order."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, empty bytes at the end."""
        ...


class Writable(Protocol):
    """Sink of bytes in order."""

    def write(self, data: bytes, /) -> object:
        """Take all of ``data``."""
        ...


class Spool:
    """A nameless file that is written once and then read at any offset, by any thread."""

    def __init__(self, directory: Path | None = None) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise make_disk_error(error, directory) from error
        self._directory = directory
        self.size = 0

    def __del__(self) -> None:
        # Extents share a spool and die in no particular order: the last reference closes the file.
        if file := getattr(self, "_file", None):
            file.close()

    def append(self, data: bytes) -> None:
        """Write all of ``data`` at the end.

        Raises:
            BuildFailed: the disk is full, or writing fails.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise make_disk_error(error, self._directory) from error
        self.size += len(data)

    def fill(self, source: Readable, *, limit: int, what: str) -> Spool:
        """Append all of ``source``; ``what`` names it in messages.

        Raises:
            ImageError: the spool would have more than ``limit`` bytes.
            BuildFailed: writing fails.
        """
        while data := source.read(CHUNK):
            if self.size + len(data) > limit:
                raise ImageError(f"{what} unpacks to more than {limit >> 20} MiB")
            self.append(data)
        return self

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer at the end of the spool."""
        return os.pread(self._file.fileno(), size, offset)


@dataclass(frozen=True, slots=True)
class Extent:
    """A file's content: ``size`` bytes of a spool."""

    spool: Spool
    offset: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in chunks."""
        position, end = self.offset, self.offset + self.size
        while position < end:
            data = self.spool.read_at(position, min(CHUNK, end - position))
            if not data:
                raise ImageError("a layer's spool ends before its last file")
            position += len(data)
            yield data


def make_disk_error(error: OSError, where: Path | None) -> BuildFailed:
    """Return a BuildFailed with advice for a failed write."""
    place = where or Path(tempfile.gettempdir())
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return space.make_full_error(place, reason)
    return BuildFailed(
        f"cannot write below {place}: {reason}", "Choose another place with --store."
    )
