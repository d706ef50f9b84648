"""Fork of this process into a cgroup: clone3(2) with CLONE_INTO_CGROUP, of Linux 5.7.

To move a process later takes a lock that waits for all processors, and leaves what memory it has
taken with its former group.
"""

from __future__ import annotations

import ctypes
import os
import struct
from signal import SIGCHLD

from slipway._util.libc import libc

# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h: the same for all
_CLONE3 = 435
# include/uapi/linux/sched.h
_CLONE_CHILD_SETTID = 0x0100_0000
_CLONE_CHILD_CLEARTID = 0x0020_0000
_CLONE_INTO_CGROUP = 0x2_0000_0000
# include/uapi/linux/prctl.h
_PR_GET_TID_ADDRESS = 40
# struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
# set_tid, set_tid_size, cgroup
_ARGUMENTS = struct.Struct("=11Q")


def fork_into_group(group: int) -> int:
    """Fork this process, which has one thread, into the cgroup of a descriptor.

    Return the id of the child, and 0 in the child. What Python calls after a fork is for several
    threads.

    Raises:
        OSError: the kernel refuses, the cgroup is full or gone, or the host has no room.
    """
    # The C library keeps the id of its thread. In its own fork it has the kernel write it anew.
    address = ctypes.c_ulong(0)
    flags = _CLONE_INTO_CGROUP
    if libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) == 0:
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    arguments = _ARGUMENTS.pack(flags, 0, address.value, 0, int(SIGCHLD), 0, 0, 0, 0, 0, group)
    size = ctypes.c_long(_ARGUMENTS.size)
    process = libc.syscall(ctypes.c_long(_CLONE3), arguments, size)
    if process < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(process)
