"""CPUID of the guest: features that this host's KVM supports, with this machine's processors.

Leaves and bits: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E; KVM's own at 0x4000_0000
(Documentation/virt/kvm/x86/cpuid.rst).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Entry = tuple[int, ...]

_FEATURES = 0x1
_CACHES = 0x4
_PERFORMANCE = 0xA
_TOPOLOGY = (0xB, 0x1F)
_AMD_SIZES = 0x8000_0008
_AMD_CACHES = 0x8000_001D
_AMD_TOPOLOGY = 0x8000_001E

_ECX_TSC_DEADLINE = 1 << 24
_ECX_HYPERVISOR = 1 << 31
_EDX_HYPERTHREADING = 1 << 28
_LEVEL_CORE = 2


def build_entries(
    supported: Sequence[Entry], number: int, count: int, tsc_deadline: bool
) -> list[Entry]:
    """Return the entries for vCPU ``number`` of ``count``, each (function, index, flags, eax..edx).

    The processors are cores of one package, without hyper-threading.
    """
    return list(_adapt_entries(supported, number, count, tsc_deadline))


def _adapt_entries(
    supported: Sequence[Entry], number: int, count: int, tsc_deadline: bool
) -> Iterator[Entry]:
    id_bits = (count - 1).bit_length()
    for entry in supported:
        function, index, flags, eax, ebx, ecx, edx = entry
        if function == _FEATURES:
            # Bits 31-24: initial APIC id; 23-16: logical processors; 15-8: size of clflush.
            ebx = ebx & 0x0000_FFFF | max(1, count) << 16 | number << 24
            ecx |= _ECX_HYPERVISOR
            if tsc_deadline:
                # KVM leaves the bit out, since it needs an irqchip in the kernel. With the bit, the
                # guest need not calibrate its timer.
                ecx |= _ECX_TSC_DEADLINE
            edx = edx | _EDX_HYPERTHREADING if count > 1 else edx & ~_EDX_HYPERTHREADING
        elif function == _CACHES:
            # Bits 31-26: cores of the package less one; 25-14: sharers of this cache less one.
            shared = count - 1 if eax >> 5 & 7 >= 3 else 0
            eax = eax & 0x3FFF | (count - 1) << 26 | shared << 14
        elif function == _PERFORMANCE:
            # No performance counters: a guest could spy on the host by them.
            eax = ebx = ecx = edx = 0
        elif function in _TOPOLOGY:
            continue
        elif function == _AMD_SIZES:
            # Bits 15-12: width of the core's part of the APIC id; 7-0: cores less one.
            ecx = ecx & ~0xF0FF | id_bits << 12 | count - 1
        elif function == _AMD_CACHES:
            shared = count - 1 if eax >> 5 & 7 >= 3 else 0
            eax = eax & ~0x03FF_C000 | shared << 14
        elif function == _AMD_TOPOLOGY:
            # APIC id; one thread a core; one node.
            eax, ebx, ecx = number, number, 0
        yield function, index, flags, eax, ebx, ecx, edx
    significant = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the entry holds for this ecx only
    for leaf in _TOPOLOGY:
        yield leaf, 0, significant, 0, 1, 1 << 8, number
        yield leaf, 1, significant, id_bits, count, 1 | _LEVEL_CORE << 8, number
        yield leaf, 2, significant, 0, 0, 2, number
