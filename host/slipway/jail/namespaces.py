"""Namespaces of a process: clone(2), unshare(2), user_namespaces(7), pid_namespaces(7)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from enum import IntFlag
from signal import SIGCHLD

from slipway._util.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# include/uapi/linux/prctl.h
_PR_GET_TID_ADDRESS = 40
# include/uapi/linux/sched.h
_CLONE_CHILD_SETTID = 0x01000000
_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_INTO_CGROUP = 0x2_0000_0000
# struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
# set_tid, set_tid_size, cgroup (clone(2), clone3)
_ARGUMENTS = struct.Struct("=11Q")
# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
_CLONE3 = 435
_CLONE: Mapping[str, int] = {"x86_64": 56, "aarch64": 220}


class Namespace(IntFlag):
    """Kinds of namespaces; include/uapi/linux/sched.h."""

    MOUNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    USER = 0x10000000
    PID = 0x20000000
    NET = 0x40000000


def unshare(namespaces: Namespace) -> None:
    """Give this process new namespaces.

    Raises:
        OSError: the kernel refuses.
    """
    if libc.unshare(int(namespaces)):
        raise _build_error()


def fork_into(namespaces: Namespace, group: int = -1) -> int:
    """Fork this process into new namespaces; return the id of the child, and 0 in the child.

    The child is born in the cgroup whose descriptor is ``group``, or in that of this process. To
    move it later would take a lock that waits for all processors, and leave the memory that it has
    taken with its former cgroup.

    A process enters a new pid namespace only by its birth. This process has one thread: the
    functions that Python calls after a fork are for several.

    Raises:
        OSError: the kernel refuses, or the host has no room for a process.
    """
    if not namespaces and group < 0:
        return os.fork()
    number = _CLONE.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # The C library keeps the id of its thread. In its own fork it has the kernel write it anew.
    address = ctypes.c_ulong(0)
    flags = int(namespaces)
    if libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) == 0:
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    if group >= 0:
        given = (flags | _CLONE_INTO_CGROUP, 0, address.value, 0, int(SIGCHLD), *[0] * 5, group)
        process = libc.syscall(
            ctypes.c_long(_CLONE3), _ARGUMENTS.pack(*given), ctypes.c_long(_ARGUMENTS.size)
        )
    else:
        # The fourth and fifth arguments are this address and an unused one, in either order.
        zero = ctypes.c_long(0)
        process = libc.syscall(
            ctypes.c_long(number), ctypes.c_long(flags | SIGCHLD), zero, zero, address, address
        )
    if process < 0:
        raise _build_error()
    return int(process)


def read_outer_id() -> int:
    """Return the id of this process where /proc was mounted: outside of a new pid namespace.

    Raises:
        OSError: there is no /proc.
    """
    return int(os.readlink("/proc/self"))


def map_root(user: int, group: int) -> None:
    """Make ``user`` and ``group`` of the parent's namespace root of this new user namespace.

    They are those of this process, and the only ones that the namespace knows.

    Raises:
        OSError: the kernel refuses.
    """
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def _build_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
