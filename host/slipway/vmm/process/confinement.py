"""What a VMM gives up before the first instruction of its guest runs.

A guest that takes over its VMM finds a process that, whoever started it,

- can open, make or rename no file, reach no network, start no program and no process, signal nobody
  but itself and make no memory executable: the filter of :mod:`slipway.vmm.process.seccomp` allows
  to run the vCPUs and to use the descriptors that exist, on x86-64 (elsewhere there is no filter);
- gets no further descriptor and writes no file's contents, by its limits;
- is looked into by no process of the same user, leaves no core file, and dies with its parent.

Where root started it, it has no capability left, and network, IPC, host name and mounts of its own.
It keeps root's user id. Where an ordinary user did, it never had a capability; the namespaces are
refused, so that on another architecture than x86-64 it is in that user's network.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
from contextlib import suppress

from slipway.vmm.libc import libc
from slipway.vmm.process import seccomp
from slipway.vmm.snapshot import pagemap

# include/uapi/linux/prctl.h, include/uapi/linux/sched.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000
# include/uapi/linux/capability.h: struct __user_cap_header_struct is version and pid; twice
# struct __user_cap_data_struct, effective, permitted and inheritable, follows.
_CAPABILITY_VERSION_3 = 0x20080522
_NO_CAPABILITIES = bytes(2 * 3 * 4)


def set_parent_death_signal(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` dies, which may have happened already."""
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def drop_privileges(address: int = 0) -> int:
    """Drop it, before the vCPUs' threads start; what only root may do is left where it is refused.

    All that will be imported, opened or made has to be there. On the way the pagemap is opened, to
    be read from ``address`` on; returns its descriptor, or -1.

    Raises:
        HostError: the kernel cannot filter system calls.
    """
    # Only root may.
    libc.unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS)
    with suppress(OSError):
        os.chdir("/")
    # Nothing is gained by it, so that the kernel does not take back the death with the parent.
    libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), _NO_CAPABILITIES)
    descriptor = pagemap.open_pagemap(address)
    # Nobody of the same user may look into the guest's memory, and no core file is written. An
    # ordinary user's process itself is in the way of its own /proc from here on.
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    for limit, value in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_NOFILE, 0),  # those that are open stay
    ):
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))
    seccomp.install()
    return descriptor
