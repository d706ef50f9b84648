"""Confinement: rights that a VMM gives up before the first instruction of its guest.

A guest that takes over its VMM finds a process that

- can open, make or rename no file, reach no network, start no program or process, signal only
  itself, and make no memory executable: the filter of :mod:`slipway.vmm.process.seccomp` allows it
  to run the existing vCPUs and to use the open descriptors (on x86-64; elsewhere no filter exists);
- gets no further descriptor and writes to no file, by its limits;
- cannot be inspected by processes of the same user, leaves no core file, and dies with its parent.

A VMM of root has no capability left, and its own network, IPC, host name and mounts; the user id
stays root's. A VMM of an ordinary user never had a capability, and new namespaces are refused: on
another architecture than x86-64 it is in that user's network.
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
    """Let the kernel kill this process when ``parent`` dies; end at once if it is dead already."""
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def drop_privileges(address: int = 0) -> int:
    """Give up all rights that a running VMM does not need, before the vCPUs' threads start.

    All imports, files and objects have to exist before. Rights that only root can give up are left
    in place where the kernel refuses.

    Return the descriptor of the pagemap, opened on the way, which stands at ``address``
    (:mod:`slipway.vmm.snapshot.pagemap`), or -1.

    Raises:
        HostError: the kernel cannot filter system calls.
    """
    # Permitted to root only.
    libc.unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS)
    with suppress(OSError):
        os.chdir("/")
    # Capabilities are only dropped: the kernel keeps the parent-death signal, see prctl(2).
    libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), _NO_CAPABILITIES)
    descriptor = pagemap.open_pagemap(address)
    # Protects the guest's memory from processes of the same user, and prevents core files. From
    # here on an ordinary user's process cannot open its own files in /proc.
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    for limit, value in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_NOFILE, 0),  # open descriptors stay
    ):
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))
    seccomp.install()
    return descriptor
