"""What a VMM gives up before the first instruction of its guest runs.

A guest that takes over its VMM finds a process without a network, without a file system that it may
write to, without the right to start another, and with the descriptors of its own VM.
"""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress

# include/uapi/linux/prctl.h, include/uapi/linux/sched.h
PR_SET_DUMPABLE = 4
CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000


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
