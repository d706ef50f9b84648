"""Files with holes: what a snapshot's memory is, most of which is zero.

Holes cost nothing here. Where they are is a file system's business and changes when a file is
copied; what counts is where bytes are that are not zero.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from slipway.machine import memory_files

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = 4096
CHUNK: Final = 64 * 1024
_READ: Final = 16 * CHUNK
_ZERO_PAGE: Final = bytes(PAGE)
_ZERO_CHUNK: Final = bytes(CHUNK)


def digest(descriptor: int) -> str:
    """What tells a file from all others, in 64 hexadecimal digits: any byte and its length count.

    It is the SHA-256 of the length and of each chunk of 64 KiB that is not all zero, after its
    offset; numbers have 8 bytes, the lowest first.

    Raises:
        HostError: the file cannot be opened again.
        OSError: it cannot be read.
    """
    import hashlib

    size = os.fstat(descriptor).st_size
    told = hashlib.sha256(size.to_bytes(8, "little"))
    for offset, chunk in _chunks(descriptor, size):
        told.update(offset.to_bytes(8, "little"))
        told.update(chunk)
    return told.hexdigest()


def copy(source: int, target: int) -> None:
    """Write what is in ``source`` into the empty file ``target``; pages of zeros become holes.

    Raises:
        HostError: ``source`` cannot be opened again.
        OSError: the one cannot be read, or the other not be written.
    """
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for offset, chunk in _chunks(source, size):
        for start, end in _runs(chunk):
            view = memoryview(chunk)[start:end]
            while view:
                written = os.pwrite(target, view, offset + end - len(view))
                view = view[written:]


def _chunks(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The chunks that are not all zero, with their offsets."""
    # The offset of a file's description moves, and who shares it may be using it.
    own = memory_files.reopen(descriptor)
    try:
        for start, end in _extents(own, size):
            for offset in range(start, end, _READ):
                data = _read(own, offset, min(_READ, end - offset))
                for at in range(0, len(data), CHUNK):
                    chunk = data[at : at + CHUNK]
                    if chunk != _ZERO_CHUNK[: len(chunk)]:
                        yield offset + at, chunk
    finally:
        os.close(own)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """What may be other than zero, in whole chunks but for the last, in order."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        position = min(size, -(-end // CHUNK) * CHUNK)
        yield start // CHUNK * CHUNK, position


def _read(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:  # somebody made it shorter
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data += more
    return data


def _runs(chunk: bytes) -> Iterator[tuple[int, int]]:
    """Where pages are that are not all zero, next to each other."""
    start = -1
    for at in range(0, len(chunk), PAGE):
        page = chunk[at : at + PAGE]
        empty = page == _ZERO_PAGE[: len(page)]
        if empty and start >= 0:
            yield start, at
            start = -1
        elif not empty and start < 0:
            start = at
    if start >= 0:
        yield start, len(chunk)
