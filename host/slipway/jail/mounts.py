"""Mounts of this process's namespace: mount(2), umount2(2), pivot_root(2)."""

from __future__ import annotations

import ctypes
import os
from enum import IntFlag

from slipway._util.libc import libc

# include/uapi/linux/mount.h
_MNT_DETACH = 2


class MountFlag(IntFlag):
    """Options of a mount; include/uapi/linux/mount.h."""

    READ_ONLY = 1 << 0
    NO_SETUID = 1 << 1
    NO_DEVICES = 1 << 2
    NO_EXECUTION = 1 << 3
    REMOUNT = 1 << 5
    BIND = 1 << 12
    RECURSIVE = 1 << 14
    PRIVATE = 1 << 18


# The options of ST_* (statvfs(3)) that are those of a mount. In a new user namespace, none of them
# can be removed.
_LOCKED = MountFlag.READ_ONLY | MountFlag.NO_SETUID | MountFlag.NO_DEVICES | MountFlag.NO_EXECUTION


def isolate() -> None:
    """Let mounts of this namespace be seen by no other.

    Raises:
        OSError: the kernel refuses.
    """
    _mount(None, "/", None, MountFlag.RECURSIVE | MountFlag.PRIVATE)


def mount_memory(target: str, options: str) -> None:
    """Mount a file system in memory on ``target``, with ``options`` of tmpfs(5).

    Raises:
        OSError: the kernel refuses.
    """
    _mount("tmpfs", target, "tmpfs", MountFlag.NO_SETUID | MountFlag.NO_DEVICES, options)


def restrict(target: str, flags: MountFlag) -> None:
    """Add options to those of the mount ``target``.

    Raises:
        OSError: the kernel refuses.
    """
    present = MountFlag(os.statvfs(target).f_flag & _LOCKED)
    _mount(None, target, None, MountFlag.REMOUNT | MountFlag.BIND | present | flags)


def bind(source: str, target: str, flags: MountFlag) -> None:
    """Show the file or directory ``source`` at ``target``, read-only, with further options.

    Mounts below a directory come along if the kernel does not let them be left out.

    Raises:
        OSError: the kernel refuses.
    """
    try:
        _mount(source, target, None, MountFlag.BIND)
    except OSError:
        _mount(source, target, None, MountFlag.BIND | MountFlag.RECURSIVE)
    restrict(target, MountFlag.READ_ONLY | flags)


def change_root(new: str, old: str) -> None:
    """Make the mount ``new`` the root, below which the former one is at ``old``.

    Raises:
        OSError: the kernel refuses.
    """
    os.chdir(new)
    _check(libc.pivot_root(b".", old.encode()))
    os.chdir("/")


def detach(target: str) -> None:
    """Remove a mount with all that is below; files that are open stay open.

    Raises:
        OSError: the kernel refuses.
    """
    _check(libc.umount2(target.encode(), _MNT_DETACH))


def _mount(
    source: str | None, target: str, kind: str | None, flags: MountFlag, options: str = ""
) -> None:
    strings = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    number = ctypes.c_ulong(flags)
    _check(libc.mount(*strings, number, options.encode() or None))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
