"""Confinement: rights that a VMM gives up before the first instruction of its guest.

A guest that takes over its VMM finds a process that

- can open, make or rename no file, reach no network, start no program or process, signal only
  itself, and make no memory executable: the filter of :mod:`slipway.vmm.process.seccomp` allows it
  to run the existing vCPUs and to use the open descriptors (on x86-64 and aarch64);
- gets no further descriptor and writes to no file, by its limits, and sees no file, by Landlock
  where the kernel has it;
- cannot be inspected by processes of the same user, leaves no core file, and dies with its parent.

A VMM of root has no capability left, and its own network, IPC, host name and mounts; the user id
stays root's. A VMM of an ordinary user never had a capability, and new namespaces are refused: on
another architecture it is in that user's network.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

from slipway._util.libc import libc
from slipway.jail import landlock, privileges
from slipway.vmm.process import seccomp
from slipway.vmm.snapshot import pagemap


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
    libc.unshare(
        privileges.CLONE_NEWNET
        | privileges.CLONE_NEWIPC
        | privileges.CLONE_NEWUTS
        | privileges.CLONE_NEWNS
    )
    with suppress(OSError):
        os.chdir("/")
    privileges.drop_capabilities()
    descriptor = pagemap.open_pagemap(address)
    privileges.forbid_inspection()
    landlock.restrict_to_reading(())
    # Open descriptors stay.
    privileges.set_limits({**privileges.NO_FILES, resource.RLIMIT_NOFILE: 0})
    seccomp.install()
    return descriptor
