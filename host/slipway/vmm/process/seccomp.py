"""Filter for the system calls of a running VMM; see :mod:`slipway.jail.call_filter`.

x86-64 and aarch64 have a table; elsewhere no filter is installed.
"""

from __future__ import annotations

import os

from slipway.jail import call_filter
from slipway.vmm.kvm import abi

_CALLS = {"x86_64": {"ioctl": 16, "readv": 19}, "aarch64": {"ioctl": 29, "readv": 65}}


def build_filter(machine: str, process: int) -> bytes | None:
    """Return the filter for ``process`` on a ``machine`` (uname); None without a table."""
    if machine not in _CALLS:
        return None
    # To run, and to read for reports and snapshots. No call that makes, connects or sets.
    requests = (abi.KVM_RUN, *_list_reading_requests(machine))
    conditions = {"ioctl": call_filter.allow_if(1, call_filter.ALL_BITS, requests)}
    return call_filter.assemble(machine, _CALLS[machine], conditions, process)


def _list_reading_requests(machine: str) -> tuple[int, ...]:
    """Return the requests of ioctl that read vCPU and VM; a VMM has imported them before."""
    if machine == "x86_64":
        from slipway.vmm.kvm import x86_64_state

        return x86_64_state.READING
    from slipway.vmm.kvm import aarch64_state

    return aarch64_state.READING


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
