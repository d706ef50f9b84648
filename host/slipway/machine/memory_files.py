"""Files in memory that hold what a machine was, and that nobody can change any more."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack, suppress

from slipway._model.errors import HostError

# A process that got hold of the file can neither change nor shorten it (fcntl(2)): a clone that was
# taken over by its guest cannot reach its siblings by it.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_CHUNK = 16 * 1024 * 1024


def create(name: str, size: int = 0) -> int:
    """The descriptor of a new file of ``size`` bytes, all holes; ``name`` is for people.

    Raises:
        HostError: the host has no room for it.
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
    """Keep everybody from changing the file. Nobody may have it mapped to write to it.

    Raises:
        HostError: somebody has, or the file cannot be sealed.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise HostError(f"a snapshot cannot be sealed: {error.strerror}") from None


def is_sealed(descriptor: int) -> bool:
    """Whether nobody can change the file; never so for one that is on a disk."""
    with suppress(OSError):
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)
    return False


def copy_sealed(name: str, source: int) -> int:
    """The descriptor of a sealed copy of the file ``source``, with its holes.

    Raises:
        HostError: the host has no room for it, or the file cannot be read.
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
            if not count:  # somebody made it shorter
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset += count


def _find_data(descriptor: int, offset: int) -> int:
    """Where after ``offset`` there is more than a hole; the file's size if nowhere."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return os.fstat(descriptor).st_size
        raise


def is_empty(descriptor: int) -> bool:
    """Whether the file is one hole."""
    return _find_data(descriptor, 0) == os.fstat(descriptor).st_size


def reopen(descriptor: int) -> int:
    """A descriptor of the same file with an offset of its own, to read.

    Raises:
        HostError: it cannot be opened.
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
