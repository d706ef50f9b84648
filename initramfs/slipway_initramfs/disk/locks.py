"""Advisory locks on files: flock(2). The kernel releases the locks of a process that ends."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from slipway_initramfs.disk.spool import make_disk_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slipway_initramfs.disk.trusted_tree import TrustedTree


# Seconds until a wait for a lock is reported.
QUIET_SECONDS = 3.0
_POLL_SECONDS = 0.05
_MAX_HOLDERS = 3
# Bytes of a command line that are read, and characters that are shown.
_MAX_COMMAND = 4096
_MAX_SHOWN = 80


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


def lock_exclusive(descriptor: int, purpose: str, progress: Callable[[str], None]) -> None:
    """Take the exclusive lock; wait until all other holders have released theirs.

    ``progress`` is called with a line about a long wait, and about the process that holds the lock;
    ``purpose`` says what that process is doing.
    """
    _wait(descriptor, fcntl.LOCK_EX, purpose, progress)


def lock_shared(descriptor: int, purpose: str, progress: Callable[[str], None]) -> None:
    """Take a shared lock, or turn an exclusive lock into a shared one; see lock_exclusive()."""
    _wait(descriptor, fcntl.LOCK_SH, purpose, progress)


def _wait(descriptor: int, operation: int, purpose: str, progress: Callable[[str], None]) -> None:
    began = time.monotonic()
    reported = False
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return
        if not reported and time.monotonic() - began >= QUIET_SECONDS:
            reported = True
            progress(f"waiting for {describe_holders(descriptor)}, which is {purpose}")
        time.sleep(_POLL_SECONDS)


def describe_holders(descriptor: int) -> str:
    """Return the processes that hold a lock on an open file, with their command lines.

    The kernel names them (proc_locks(5)); those of other PID namespaces are unknown.
    """
    holders = [f"process {pid}{_read_command(pid)}" for pid in _find_holders(descriptor)]
    return " and ".join(holders[:_MAX_HOLDERS]) or "another process"


def _find_holders(descriptor: int) -> list[int]:
    file = os.fstat(descriptor).st_ino
    found: dict[int, None] = {}
    with suppress(OSError), open("/proc/locks", encoding="ascii") as table:  # noqa: PTH123
        for line in table:
            # 1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF; waiting ones have "->" for FLOCK.
            match line.split():
                case [_, "FLOCK", _, _, pid, place, *_] if place.rpartition(":")[2] == str(file):
                    if pid.isdecimal() and int(pid) not in (0, os.getpid()):
                        found[int(pid)] = None
    return list(found)


def _read_command(pid: int) -> str:
    """Return the command line of a process in parentheses, or nothing."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            words = file.read(_MAX_COMMAND).decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    # Without the interpreter and its options, and without the directory of the script.
    if os.path.basename(words[0]).startswith("python"):  # noqa: PTH119
        words = [word for word in words[1:] if not word.startswith("-I")] or words
    words[0] = os.path.basename(words[0])  # noqa: PTH119
    text = " ".join(words).strip()
    return f" ({text[:_MAX_SHOWN]})" if text else ""
