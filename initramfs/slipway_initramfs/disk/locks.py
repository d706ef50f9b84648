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
