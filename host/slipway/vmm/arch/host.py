"""Architecture of this host."""

from __future__ import annotations

import os

from slipway._util.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.arch.model import Architecture


def find_architecture() -> Architecture:
    """Return the architecture of this host, and thereby of its guests.

    Raises:
        HostError: the VMM does not support this architecture, or its modules cannot be read.
    """
    machine = os.uname().machine
    try:
        if machine == "x86_64":
            from slipway.vmm.arch.x86_64 import architecture

            return architecture
        if machine == "aarch64":
            from slipway.vmm.arch.aarch64 import architecture as aarch64

            return aarch64
    except OSError as error:  # too many open files
        raise HostError(
            f"cannot read the modules of {machine}: {error.strerror}",
            "Raise the limit of open files (ulimit -n).",
        ) from None
    raise HostError(
        f"the hypervisor kvm does not support the architecture {machine}", "Use --machine qemu."
    )
