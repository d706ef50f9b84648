"""Directories of builds that need files with names, such as a kernel's.

A directory is locked while its build runs. The lock of a killed build is free: the next writer to
the store removes the directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipway_initramfs.disk.spool import make_disk_error

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "slipway-build-"
# The user without rights, whose id the kernel itself has for users that it does not know.
NOBODY = 65534


@dataclass(frozen=True, slots=True)
class BuildDirectory:
    """Directory of one build; ``user`` owns it, and is None if that is the caller."""

    path: Path
    user: int | None


def find_place(temporary: Path) -> Path:
    """Return where build directories are made: in ``temporary``, but for root where others can go.

    Root's builds run as a user without rights, who may not enter root's own directories.
    """
    if os.geteuid() != 0:
        return temporary
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108  (the name is random)


@contextmanager
def make_directory(temporary: Path) -> Iterator[BuildDirectory]:
    """Make a directory for one build, and remove it at the end.

    Raises:
        BuildFailed: the directory cannot be made.
    """
    user = NOBODY if os.geteuid() == 0 else None
    place = find_place(temporary)
    with ExitStack() as undo:
        try:
            outer = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            undo.callback(_remove, outer)
            lock = _open_directory(outer)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            outer.chmod(0o711)
            inner = outer / "build"
            inner.mkdir(0o700)
            if user is not None:
                os.chown(inner, user, user)
        except OSError as error:
            raise make_disk_error(error, place) from error
        yield BuildDirectory(inner, user)


def sweep(temporary: Path) -> int:
    """Remove the directories of killed builds; return the number of bytes freed."""
    freed = 0
    for path in sorted(find_place(temporary).glob(f"{_PREFIX}*")):
        with suppress(OSError):
            lock = _open_directory(path)
            try:
                if os.fstat(lock).st_uid != os.geteuid():
                    continue
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                freed += measure(path)
                _remove(path)
            finally:
                os.close(lock)
    return freed


def measure(directory: Path) -> int:
    """Return the disk use of all files below a directory, in bytes."""
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512  # noqa: PTH118
    return total


def _open_directory(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
