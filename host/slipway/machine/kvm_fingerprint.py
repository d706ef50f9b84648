"""What of this host a snapshot of the kvm machine depends on."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

from slipway.vmm.kvm import x86_64, x86_64_state
from slipway.vmm.kvm.abi import Capability
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.snapshot import state_file as snapshot

_CPU_INFO = Path("/proc/cpuinfo")
# What of CPUID tells which processor of the host was asked: leaf, and masks of eax to edx. Of
# leaves 0xb and 0x1f nothing is the guest's in any case.
_ALL = 0xFFFF_FFFF
_MASKS = {
    0x1: (_ALL, 0x0000_FFFF, _ALL, _ALL),  # APIC id, logical processors
    0xB: (0, 0, 0, 0),
    0x1F: (0, 0, 0, 0),
    0x8000_001E: (0, 0, 0, 0),
}


def compute_fingerprint() -> str:
    """The same for the same processors, KVM and VMM, whichever processor answers; 64 hex digits.

    The rate of the TSC is no part of it: each boot of a host measures it a little differently, and
    whatever is rounded has an edge somewhere. KVM says at a restore whether a rate is near enough.

    Raises:
        HostError: there is no KVM.
    """
    with closing(Kvm()) as kvm:
        parts: list[object] = [snapshot.VERSION, _read_processor(), x86_64_state.xsave_size(kvm)]
        for entry in sorted(x86_64.supported_cpuid(kvm)):
            function, index, flags, *registers = entry
            masks = _MASKS.get(function, (_ALL,) * 4)
            masked = [value & mask for value, mask in zip(registers, masks, strict=True)]
            parts.append((function, index, flags, *masked))
        parts += [(capability.name, kvm.capability(capability)) for capability in Capability]
        parts += sorted(x86_64_state.msr_indices(kvm))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _read_processor() -> list[str]:
    """Who made the first processor, and which it is; empty where the kernel does not tell."""
    try:
        text = _CPU_INFO.read_text(errors="replace")
    except OSError:
        return []
    first = text.split("\n\n", maxsplit=1)[0]
    names = ("vendor_id", "cpu family", "model", "model name", "stepping")
    pairs = (line.partition(":") for line in first.splitlines())
    return [f"{name.strip()}={value.strip()}" for name, _, value in pairs if name.strip() in names]
