"""Facts of this host that a snapshot of the hypervisor ``kvm`` depends on."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

from slipway.vmm.kvm import x86_64, x86_64_state
from slipway.vmm.kvm.abi import Capability
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.snapshot import state_file as snapshot

_CPU_INFO = Path("/proc/cpuinfo")
# Masks of eax to edx, by leaf, without the bits that tell the processors of a host apart. Leaves
# 0xb and 0x1f never reach a guest.
_ALL = 0xFFFF_FFFF
_MASKS = {
    0x1: (_ALL, 0x0000_FFFF, _ALL, _ALL),  # APIC id, logical processors
    0xB: (0, 0, 0, 0),
    0x1F: (0, 0, 0, 0),
    0x8000_001E: (0, 0, 0, 0),
}


def compute_fingerprint() -> str:
    """Return a digest of processor, KVM and VMM, as 64 hexadecimal digits; the same on each CPU.

    The rate of the TSC is left out: each boot of a host measures a slightly different rate, and
    rounding always has an edge. KVM checks at a restore if the rate is near enough.

    Raises:
        HostError: KVM cannot be opened.
    """
    with closing(Kvm()) as kvm:
        parts: list[object] = [
            snapshot.VERSION,
            _read_processor(),
            x86_64_state.find_xsave_size(kvm),
        ]
        for entry in sorted(x86_64.read_supported_cpuid(kvm)):
            function, index, flags, *registers = entry
            masks = _MASKS.get(function, (_ALL,) * 4)
            masked = [value & mask for value, mask in zip(registers, masks, strict=True)]
            parts.append((function, index, flags, *masked))
        parts += [(capability.name, kvm.get_capability(capability)) for capability in Capability]
        parts += sorted(x86_64_state.list_msrs(kvm))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _read_processor() -> list[str]:
    """Return vendor and model of the first processor; empty if the kernel does not report them."""
    try:
        text = _CPU_INFO.read_text(errors="replace")
    except OSError:
        return []
    first = text.split("\n\n", maxsplit=1)[0]
    names = ("vendor_id", "cpu family", "model", "model name", "stepping")
    pairs = (line.partition(":") for line in first.splitlines())
    return [f"{name.strip()}={value.strip()}" for name, _, value in pairs if name.strip() in names]
