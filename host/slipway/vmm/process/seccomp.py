"""Filter for the system calls of a running VMM; see :mod:`slipway.vmm.process.call_filter`.

Only x86-64 has a table; elsewhere no filter is installed.
"""

from __future__ import annotations

import os

from slipway.vmm.kvm import abi, x86_64_state
from slipway.vmm.process import call_filter

# To run, and to read for reports and snapshots. No call that makes, connects or sets.
_IOCTLS = {"x86_64": (abi.KVM_RUN, *x86_64_state.READING)}
_CALLS = {"x86_64": {"ioctl": 16, "readv": 19}}


def build_filter(machine: str, process: int) -> bytes | None:
    """Return the filter for ``process`` on a ``machine`` (uname); None without a table."""
    if machine not in _CALLS:
        return None
    conditions = {"ioctl": call_filter.allow_if(1, call_filter.ALL_BITS, _IOCTLS[machine])}
    return call_filter.assemble(machine, _CALLS[machine], conditions, process)


def install() -> bool:
    """Restrict this thread, and those that it starts, to the calls of the table.

    New privileges have to be ruled out before. Return False without a table.

    Raises:
        HostError: the kernel has no filters.
    """
    code = build_filter(os.uname().machine, os.getpid())
    if code is None:
        return False
    call_filter.install(code, "the VMM")
    return True
