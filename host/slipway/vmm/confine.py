"""What a VMM gives up before the first instruction of its guest runs.

A guest that takes over its VMM finds a process without a network, without a file system that it may
write to, without the right to start another, and with the descriptors of its own VM.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress

# include/uapi/linux/prctl.h, include/uapi/linux/sched.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000


def die_with(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` dies, which may have happened already."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def give_up() -> None:
    """Drop it; what the kernel does not grant to an ordinary user is left as it is."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Nobody of the same user may look into the guest's memory, and no core file is written.
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    # Only root may; for others the limits below are what holds.
    libc.unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS)
    with suppress(OSError):
        os.chdir("/")
    for limit, value in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))
