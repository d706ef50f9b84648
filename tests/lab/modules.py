"""Kernel modules of L1, and the changes in them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slipway_initramfs.debian.kernel import KernelPackage

# struct module_signature, of which the last field is the length (include/linux/module_signature.h)
_SIGNATURE = struct.Struct(">8xI")
_SIGNATURE_MAGIC = b"~Module signature appended~\n"

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
    found = {name: _strip_signature(data) for name, data in package.modules(names).items()}
    if "kvm" in found:
        found["kvm"] = _remove_pv_eoi(found["kvm"], progress)
    return found


def _strip_signature(module: bytes) -> bytes:
    """Return a module without its signature: to verify all takes as long as half of the boot.

    The kernel loads such a module with a remark in its log.
    """
    if not module.endswith(_SIGNATURE_MAGIC):
        return module
    end = len(module) - len(_SIGNATURE_MAGIC)
    (length,) = _SIGNATURE.unpack_from(module, end - _SIGNATURE.size)
    return module[: end - _SIGNATURE.size - length]


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
