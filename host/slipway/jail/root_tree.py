"""Root tree of a process: an empty read-only directory with just what the process opens."""

from __future__ import annotations

import os
import stat

from slipway.jail import mounts
from slipway.jail.mounts import MountFlag
from slipway.jail.namespaces import read_outer_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_OPTIONS = "size=64k,nr_inodes=128,mode=755"
# A directory that every host has. The mount covers it until it is the root.
_PLACE = "/proc"
_OLD = ".old"
_HARMLESS = MountFlag.NO_SETUID | MountFlag.NO_DEVICES
DESCRIPTORS = "/proc/self/fd"


class RootTree:
    """Tree of the paths that a process may see, read-only.

    ``paths`` are files, directories and symbolic links of the host; missing ones are left out. With
    ``has_descriptors``, the process finds its open files below :data:`DESCRIPTORS`, as in a /proc
    that has nothing else.
    """

    __slots__ = ("has_descriptors", "paths")

    def __init__(self, paths: Iterable[str] = (), *, has_descriptors: bool = False) -> None:
        self.paths = tuple(paths)
        self.has_descriptors = has_descriptors

    def enter(self) -> None:
        """Make the tree the root of this process, whose mount namespace is new.

        From here on the process imports nothing, and opens only what the tree has.

        Raises:
            OSError: the kernel refuses.
        """
        process = read_outer_id()
        mounts.isolate()
        mounts.mount_memory(_PLACE, _OPTIONS)
        os.mkdir(f"{_PLACE}/{_OLD}")
        mounts.change_root(_PLACE, _OLD)
        for path in self.paths:
            _show(path)
        if self.has_descriptors:
            os.makedirs(DESCRIPTORS)
            flags = _HARMLESS | MountFlag.NO_EXECUTION
            mounts.bind(f"/{_OLD}/proc/{process}/fd", DESCRIPTORS, flags)
        mounts.detach(f"/{_OLD}")
        os.rmdir(f"/{_OLD}")
        mounts.restrict("/", MountFlag.READ_ONLY | MountFlag.NO_EXECUTION)


def _show(path: str) -> None:
    """Show a path of the former root in the new one."""
    source = f"/{_OLD}{path}"
    try:
        mode = os.lstat(source).st_mode
    except OSError:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), path)
        return
    if stat.S_ISDIR(mode):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444))
    mounts.bind(source, path, _HARMLESS)
