"""Facts of this host that a snapshot of the hypervisor ``kvm`` depends on."""

from __future__ import annotations

import hashlib
from contextlib import closing

from slipway.vmm.arch.host import find_architecture
from slipway.vmm.kvm.abi import Capability
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.snapshot import state_file as snapshot


def compute_fingerprint() -> str:
    """Return a digest of processor, KVM and VMM, as 64 hexadecimal digits; the same on each CPU.

    Raises:
        HostError: KVM cannot be opened.
    """
    with closing(Kvm()) as kvm:
        parts: list[object] = [snapshot.VERSION, *find_architecture().list_host_facts(kvm)]
        parts += [(capability.name, kvm.get_capability(capability)) for capability in Capability]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
