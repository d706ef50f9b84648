"""Confinement: rights that a VMM gives up before the first instruction of its guest.

A guest that takes over its VMM finds a process that

- can open, make or rename no file, reach no network, start no program or process, signal only
  itself, and make no memory executable: the filter of :mod:`slipway.vmm.process.seccomp` allows it
  to run the existing vCPUs and to use the open descriptors (on x86-64 and aarch64);
- gets no further descriptor and writes to no file, by its limits, and sees no file, by Landlock
  where the kernel has it;
- cannot be inspected by processes of the same user, leaves no core file, and dies with its parent.

It is in a :class:`slipway.jail.jail.Jail` with an empty root tree: it has namespaces of its own, no
capability, and as a VMM of root a user id that no other process has. What a host refuses to an
ordinary user is left out.
"""

from __future__ import annotations

import os
import resource

from slipway._util.errors import HostError
from slipway.jail import landlock, privileges
from slipway.jail.part import JailRefusal
from slipway.vmm.process import seccomp
from slipway.vmm.snapshot import pagemap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.jail.jail import Jail


def drop_privileges(jail: Jail, address: int = 0) -> int:
    """Give up all rights that a running VMM does not need, before the vCPUs' threads start.

    All imports, files and objects have to exist before. This process is a child of ``jail``, which
    is closed.

    Return the descriptor of the pagemap, opened on the way, which stands at ``address``
    (:mod:`slipway.vmm.snapshot.pagemap`), or -1.

    Raises:
        HostError: the kernel cannot filter system calls, or has no room for the jail.
    """
    os.chdir("/")
    process = pagemap.open_process()
    try:
        jail.enter()
        jail.seal()
    except JailRefusal as refusal:
        raise HostError(f"the VMM cannot be confined: {refusal}", refusal.hint) from None
    jail.close()
    descriptor = pagemap.open_pagemap(process, address)
    privileges.forbid_inspection()
    landlock.restrict_to_reading(())
    # Open descriptors stay.
    privileges.set_limits({**privileges.NO_FILES, resource.RLIMIT_NOFILE: 0})
    seccomp.install()
    return descriptor
