"""Advisory locks on files: flock(2). The kernel releases the locks of a process that ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slipway_initramfs.disk.spool import make_disk_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def open_lock(path: Path) -> Iterator[int]:
    """Open a lock file. Closing it releases the lock.

    Raises:
        BuildFailed: the file cannot be created.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise make_disk_error(error, path.parent) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def try_hold(path: Path) -> Iterator[bool]:
    """Hold the exclusive lock on a file of this name, if it is free; yield whether it is held.

    The file may be removed by :func:`remove_unheld` at any time.

    Raises:
        BuildFailed: the file cannot be created.
    """
    with open_lock(path) as lock:
        # A file that was removed between open(2) and flock(2) locks nobody out.
        yield try_lock_exclusive(lock) and _is_named(lock, path)


def remove_unheld(path: Path) -> None:
    """Remove a lock file, unless a process holds a lock on it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        if try_lock_exclusive(descriptor):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    """Return whether ``path`` names the file that ``descriptor`` has open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def try_lock_exclusive(descriptor: int) -> bool:
    """Take the exclusive lock if the lock is free; return whether it was taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_exclusive(descriptor: int) -> None:
    """Take the exclusive lock; wait until all other holders have released theirs."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def lock_shared(descriptor: int) -> None:
    """Take a shared lock, or turn an exclusive lock into a shared one."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)
