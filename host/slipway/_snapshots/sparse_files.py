"""Sparse files, as a snapshot's memory: digests and copies that skip zeros.

A file system may move holes when a file is copied. Digests depend only on the bytes that are not
zero.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from slipway.machine import memory_files

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 4096
CHUNK = 64 * 1024
_READ = 16 * CHUNK
_ZERO_PAGE = bytes(PAGE)
_ZERO_CHUNK = bytes(CHUNK)


def digest(descriptor: int) -> str:
    """Return a digest of a file's length and bytes: 64 hexadecimal digits.

    The SHA-256 of the length, and of the offset and the bytes of each chunk of 64 KiB that is not
    all zero. Numbers have 8 bytes, little-endian.

    Raises:
        HostError: the file cannot be opened again.
        OSError: the file cannot be read.
    """
    import hashlib

    size = os.fstat(descriptor).st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    for offset, chunk in _read_data_chunks(descriptor, size):
        digest.update(offset.to_bytes(8, "little"))
        digest.update(chunk)
    return digest.hexdigest()


def count_data_bytes(descriptor: int) -> int:
    """Return the bytes of a file's pages that are not all zero: those that :func:`copy` writes.

    Raises:
        HostError: the file cannot be opened again.
        OSError: the file cannot be read.
    """
    size = os.fstat(descriptor).st_size
    return sum(
        end - start
        for _, chunk in _read_data_chunks(descriptor, size)
        for start, end in _find_data_pages(chunk)
    )


def copy(source: int, target: int) -> None:
    """Copy ``source`` into the empty file ``target``; pages of zeros become holes.

    Raises:
        HostError: ``source`` cannot be opened again.
        OSError: ``source`` cannot be read, or ``target`` not be written.
    """
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for offset, chunk in _read_data_chunks(source, size):
        for start, end in _find_data_pages(chunk):
            view = memoryview(chunk)[start:end]
            while view:
                written = os.pwrite(target, view, offset + end - len(view))
                view = view[written:]


def _read_data_chunks(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the chunks that are not all zero, after their offsets."""
    # The offset of an open file is shared with other owners of duplicates, which may read too.
    own = memory_files.reopen(descriptor)
    try:
        for start, end in _find_extents(own, size):
            for offset in range(start, end, _READ):
                data = _read_fully(own, offset, min(_READ, end - offset))
                for at in range(0, len(data), CHUNK):
                    chunk = data[at : at + CHUNK]
                    if chunk != _ZERO_CHUNK[: len(chunk)]:
                        yield offset + at, chunk
    finally:
        os.close(own)


def _find_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges that hold data, in order, rounded to whole chunks (lseek(2), SEEK_DATA)."""
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


def _read_fully(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:  # the file became shorter
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data += more
    return data


def _find_data_pages(chunk: bytes) -> Iterator[tuple[int, int]]:
    """Yield ranges of pages that are not all zero, as offsets in ``chunk``."""
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
