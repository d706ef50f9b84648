"""Advisory locks on files: flock(2), which the kernel drops with the process that holds them."""

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
    """Open a lock file; closing it releases whatever lock was taken on it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise make_disk_error(error, path.parent) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock_exclusive(descriptor: int) -> bool:
    """Lock out everybody else, if nobody holds the lock now; return whether that was so."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_exclusive(descriptor: int) -> None:
    """Lock out everybody else, once all others have let go."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def lock_shared(descriptor: int) -> None:
    """Lock out only who wants the lock alone; gives an exclusive one up."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)
