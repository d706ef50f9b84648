"""Kernel modules of L1, and the changes in them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipway_initramfs.debian.kernel import KernelPackage

# movq $features, 0xc(%rax): eax and ebx of the CPUID leaf 0x40000001 in __do_cpuid_func
# (arch/x86/kvm/cpuid.c). The value is that of Linux 6.1.
_FEATURES = 0x0100_7EFB
_PV_EOI = 1 << 6
_STORE = struct.Struct("<4sI")
_STORE_CODE = bytes.fromhex("48c7400c")


def prepare(
    package: KernelPackage, names: Sequence[str], progress: Callable[[str], None]
) -> dict[str, bytes]:
    """Return these modules of a kernel in their loading order, changed for L1."""
    found = package.modules(names)
    if "kvm" in found:
        found["kvm"] = _remove_pv_eoi(found["kvm"], progress)
    return found


def _remove_pv_eoi(kvm: bytes, progress: Callable[[str], None]) -> bytes:
    """Return the module kvm, changed so that guests get no paravirtual EOI.

    A guest that ends its interrupts without a VM exit meets an error of QEMU: docs/lab.md. A module
    in which the place is not found stays unchanged, and ``progress`` reports that.
    """
    offered = _STORE.pack(_STORE_CODE, _FEATURES)
    if kvm.count(offered) != 1:
        progress("this kernel's KVM cannot be kept from offering PV EOI: guests may hang")
        return kvm
    return kvm.replace(offered, _STORE.pack(_STORE_CODE, _FEATURES & ~_PV_EOI))
