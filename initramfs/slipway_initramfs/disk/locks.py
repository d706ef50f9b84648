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

    from slipway_initramfs.disk.trusted_tree import TrustedTree


@contextmanager
def open_lock(tree: TrustedTree, path: Path) -> Iterator[int]:
    """Open a lock file in ``tree``. Closing it releases the lock.

    Raises:
        BuildFailed: the file cannot be created.
        UntrustedFile: another user can change the file, or it is no plain file.
    """
    try:
        descriptor = tree.open_file(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise make_disk_error(error, path.parent) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def try_hold(tree: TrustedTree, path: Path) -> Iterator[bool]:
    """Hold the exclusive lock on a file of this name, if it is free; yield whether it is held.

    The file may be removed by :func:`remove_unheld` at any time.

    Raises:
        BuildFailed: the file cannot be created.
        UntrustedFile: another user can change the file, or it is no plain file.
    """
    with open_lock(tree, path) as lock:
        # A file that was removed between open(2) and flock(2) locks nobody out.
        yield try_lock_exclusive(lock) and _is_named(lock, path)


def remove_unheld(tree: TrustedTree, path: Path) -> None:
    """Remove a lock file of ``tree``, unless a process holds a lock on it."""
    try:
        descriptor = tree.open_file(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        if try_lock_exclusive(descriptor):
            tree.remove_file(path)
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
