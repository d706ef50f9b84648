"""Sealed files in memory that hold snapshots."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack, suppress

from slipway._util.errors import HostError
from slipway._util.units import MIB

# A process that has the file can neither change nor shorten it (fcntl(2)): a clone that its guest
# controls cannot reach its siblings through the file.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CHUNK = 16 * MIB


def create(name: str, size: int = 0) -> int:
    """Return the descriptor of a new file of ``size`` bytes, all holes; ``name`` is for people.

    Raises:
        HostError: the host has no room for the file.
    """
    descriptor = -1
    try:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise _build_error(error) from None
    return descriptor


def seal(descriptor: int) -> None:
    """Prevent all changes of the file, which must not be mapped writable anywhere.

    Raises:
        HostError: the file is mapped writable, or cannot be sealed.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise HostError(f"a snapshot cannot be sealed: {error.strerror}") from None


def is_sealed(descriptor: int) -> bool:
    """Tell if the file is sealed against changes; a file on a disk never is."""
    with suppress(OSError):
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)
    return False


def copy_sealed(name: str, source: int) -> int:
    """Return the descriptor of a sealed copy of the file ``source``, with its holes.

    Raises:
        HostError: the host has no room for the copy, or the file cannot be read.
    """
    size = os.fstat(source).st_size
    with ExitStack() as undo:
        copy = create(name, size)
        undo.callback(os.close, copy)
        try:
            _copy_data(source, copy, size)
        except OSError as error:
            raise _build_error(error) from None
        seal(copy)
        undo.pop_all()
    return copy


def _copy_data(source: int, copy: int, size: int) -> None:
    end = 0
    while (offset := _find_data(source, end)) < size:
        end = os.lseek(source, offset, os.SEEK_HOLE)
        os.lseek(copy, offset, os.SEEK_SET)
        while offset < end:
            count = os.sendfile(copy, source, offset, min(end - offset, _CHUNK))
            if not count:  # the file was shortened meanwhile
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset += count


def _find_data(descriptor: int, offset: int) -> int:
    """Return the first offset from ``offset`` on that is not in a hole; else the file's size."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return os.fstat(descriptor).st_size
        raise


def is_empty(descriptor: int) -> bool:
    """Tell if the file is one hole."""
    return _find_data(descriptor, 0) == os.fstat(descriptor).st_size


def reopen(descriptor: int) -> int:
    """Return a descriptor of the same file with its own offset, for reading.

    Raises:
        HostError: the file cannot be opened.
    """
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"a snapshot cannot be opened again: {error.strerror}",
            "Raise the limit of open files (ulimit -n), and mount /proc.",
        ) from None


def _build_error(error: OSError) -> HostError:
    hint = {
        errno.EMFILE: "Raise the limit of open files (ulimit -n).",
        errno.ENOSPC: "Run fewer machines at once.",
        errno.ENOMEM: "Run fewer machines at once.",
    }.get(error.errno or 0, "")
    return HostError(f"a snapshot cannot be kept in memory: {error.strerror}", hint)
