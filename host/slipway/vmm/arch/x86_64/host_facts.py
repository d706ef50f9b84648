"""Facts of an x86-64 host that a snapshot depends on."""

from __future__ import annotations

from slipway.vmm.arch.cpu_info import read_cpu_info
from slipway.vmm.kvm import x86_64, x86_64_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.kvm.system import Kvm

_NAMES = ("vendor_id", "cpu family", "model", "model name", "stepping")
# Masks of eax to edx, by leaf, without the bits that tell the processors of a host apart. Leaves
# 0xb and 0x1f never reach a guest.
_ALL = 0xFFFF_FFFF
_MASKS = {
    0x1: (_ALL, 0x0000_FFFF, _ALL, _ALL),  # APIC id, logical processors
    0xB: (0, 0, 0, 0),
    0x1F: (0, 0, 0, 0),
    0x8000_001E: (0, 0, 0, 0),
}


def list_facts(kvm: Kvm) -> list[object]:
    """Return model, sizes, CPUID and numbers of MSRs.

    The rate of the TSC is left out: each boot of a host measures a slightly different rate, and
    rounding always has an edge. KVM checks at a restore if the rate is near enough.

    Raises:
        HostError: KVM refuses a call.
    """
    facts: list[object] = [read_cpu_info(_NAMES), x86_64_state.find_xsave_size(kvm)]
    for entry in sorted(x86_64.read_supported_cpuid(kvm)):
        function, index, flags, *registers = entry
        masks = _MASKS.get(function, (_ALL,) * 4)
        masked = [value & mask for value, mask in zip(registers, masks, strict=True)]
        facts.append((function, index, flags, *masked))
    return [*facts, *sorted(x86_64_state.list_msrs(kvm))]
