"""KVM's interface on x86-64 alone: registers, CPUID, MSRs, local APIC (arch/x86/.../asm/kvm.h)."""

from __future__ import annotations

import ctypes
import fcntl
import struct

from slipway._util.libc import libc
from slipway.vmm.kvm.failure import explain_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm

KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_SET_TSS_ADDR = 0xAE47
KVM_SET_IDENTITY_MAP_ADDR = 0x4008AE48
KVM_GET_REGS = 0x8090AE81
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_MSRS = 0x4008AE89
KVM_GET_LAPIC = 0x8400AE8E
KVM_SET_LAPIC = 0x4400AE8F
KVM_SET_CPUID2 = 0x4008AE90

# struct kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8-r15 rip rflags
REGS = struct.Struct("=18Q")
REGS_NAMES = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
)
RFLAGS_RESERVED = 0x2  # bit 1 reads as one on every x86
# struct kvm_segment: base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable, padding
SEGMENT = struct.Struct("=QIH10Bx")
SEGMENT_SIZE = 24
# struct kvm_dtable: base, limit, padding[3]
TABLE = struct.Struct("=QH6x")
# struct kvm_sregs: cs ds es fs gs ss tr ldt, gdt idt, cr0 cr2 cr3 cr4 cr8 efer apic_base, bitmap
SREGS_SIZE = 0x138
# type, present, dpl, db, s, l, g, avl, unusable, padding: the state after a reset.
REAL_MODE_CODE = (0xB, 1, 0, 0, 1, 0, 0, 0, 0, 0)
SREGS_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
SREGS_GDT = 8 * SEGMENT_SIZE
SREGS_IDT = SREGS_GDT + 16
SREGS_CONTROL = struct.Struct("=7Q")
SREGS_CONTROL_OFFSET = SREGS_IDT + 16
SREGS_CONTROL_NAMES = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")

# struct kvm_cpuid2 begins with nent (u32) and padding; struct kvm_cpuid_entry2: function, index,
# flags, eax, ebx, ecx, edx, padding[3]
CPUID_HEADER = struct.Struct("=I4x")
CPUID_ENTRY = struct.Struct("=7I12x")
CPUID_MAX_ENTRIES = 256
# struct kvm_msrs likewise; struct kvm_msr_entry: index, reserved, data
MSR_HEADER = struct.Struct("=I4x")
MSR_ENTRY = struct.Struct("=I4xQ")
LAPIC_SIZE = 1024


class SegmentRegister:
    """Hidden part of a segment register (struct kvm_segment)."""

    __slots__ = ("attributes", "base", "limit", "selector")

    def __init__(self, selector: int, attributes: tuple[int, ...], base: int = 0) -> None:
        self.base = base
        self.limit = 0xFFFFFFFF
        self.selector = selector
        # type, present, dpl, db, s, l, g, avl, unusable, and padding
        self.attributes = attributes

    def pack_into(self, buffer: bytearray, offset: int) -> None:
        """Write the register to ``offset`` of a buffer."""
        SEGMENT.pack_into(buffer, offset, self.base, self.limit, self.selector, *self.attributes)


def read_supported_cpuid(kvm: Kvm) -> list[tuple[int, ...]]:
    """Return the CPUID that KVM can show: (function, index, flags, eax, ebx, ecx, edx) each."""
    buffer = bytearray(CPUID_HEADER.size + CPUID_MAX_ENTRIES * CPUID_ENTRY.size)
    CPUID_HEADER.pack_into(buffer, 0, CPUID_MAX_ENTRIES)
    with explain_failure("KVM_GET_SUPPORTED_CPUID"):
        fcntl.ioctl(kvm.fd, KVM_GET_SUPPORTED_CPUID, buffer)
    (count,) = CPUID_HEADER.unpack_from(buffer)
    used = memoryview(buffer)[CPUID_HEADER.size :][: count * CPUID_ENTRY.size]
    return list(CPUID_ENTRY.iter_unpack(used))


def _call(vcpu: Vcpu, name: str, request: int, buffer: bytearray) -> bytearray:
    """Let KVM read or fill ``buffer``: a bytearray, since fcntl copies at most 1,024 bytes."""
    with explain_failure(name):
        fcntl.ioctl(vcpu.fd, request, buffer)
    return buffer


def set_cpuid(vcpu: Vcpu, entries: Iterable[tuple[int, ...]]) -> None:
    """Show ``entries`` to the guest on ``vcpu``."""
    packed = [CPUID_ENTRY.pack(*entry) for entry in entries]
    buffer = bytearray(CPUID_HEADER.pack(len(packed)) + b"".join(packed))
    _call(vcpu, "KVM_SET_CPUID2", KVM_SET_CPUID2, buffer)


def set_msrs(vcpu: Vcpu, values: Mapping[int, int]) -> None:
    """Set model-specific registers.

    Raises:
        HostError: a register is unknown to KVM, or its value is refused.
    """
    packed = b"".join(MSR_ENTRY.pack(index, value) for index, value in values.items())
    with explain_failure("KVM_SET_MSRS"):
        done = fcntl.ioctl(vcpu.fd, KVM_SET_MSRS, bytearray(MSR_HEADER.pack(len(values)) + packed))
        if done != len(values):
            raise OSError(22, f"MSR {list(values)[done]:#x} is refused")


def read_registers(vcpu: Vcpu) -> dict[str, int]:
    """Return the general registers by name."""
    buffer = _call(vcpu, "KVM_GET_REGS", KVM_GET_REGS, bytearray(REGS.size))
    return dict(zip(REGS_NAMES, REGS.unpack(buffer), strict=True))


def set_registers(vcpu: Vcpu, **values: int) -> None:
    """Set the general registers; others become zero."""
    values.setdefault("rflags", RFLAGS_RESERVED)
    packed = REGS.pack(*(values.get(name, 0) for name in REGS_NAMES))
    _call(vcpu, "KVM_SET_REGS", KVM_SET_REGS, bytearray(packed))


def read_special_registers(vcpu: Vcpu) -> bytearray:
    """Return the special registers as struct kvm_sregs, to be changed and set again."""
    return _call(vcpu, "KVM_GET_SREGS", KVM_GET_SREGS, bytearray(SREGS_SIZE))


def set_special_registers(vcpu: Vcpu, buffer: bytearray) -> None:
    """Set the result of :func:`read_special_registers`."""
    _call(vcpu, "KVM_SET_SREGS", KVM_SET_SREGS, buffer)


def find_segment_offset(name: str) -> int:
    """Return the offset of the segment register ``name`` in struct kvm_sregs."""
    return SREGS_SEGMENTS.index(name) * SEGMENT_SIZE


def unpack_control_registers(sregs: bytearray) -> dict[str, int]:
    """Return the control registers of struct kvm_sregs by name."""
    values = SREGS_CONTROL.unpack_from(sregs, SREGS_CONTROL_OFFSET)
    return dict(zip(SREGS_CONTROL_NAMES, values, strict=True))


def change_control_registers(sregs: bytearray, **values: int) -> None:
    """Change control registers in struct kvm_sregs."""
    merged = unpack_control_registers(sregs) | values
    SREGS_CONTROL.pack_into(sregs, SREGS_CONTROL_OFFSET, *merged.values())


def read_local_apic(vcpu: Vcpu) -> bytearray:
    """Return the registers of the vCPU's local APIC, laid out as in its page."""
    return _call(vcpu, "KVM_GET_LAPIC", KVM_GET_LAPIC, bytearray(LAPIC_SIZE))


def set_local_apic(vcpu: Vcpu, buffer: bytearray) -> None:
    """Set the result of :func:`read_local_apic`."""
    _call(vcpu, "KVM_SET_LAPIC", KVM_SET_LAPIC, buffer)


def place_real_mode_pages(vm: Vm, identity_map: int, task_state: int) -> None:
    """Tell Intel's KVM the addresses of four pages outside of the RAM.

    KVM runs real mode with them on processors that cannot. ``task_state`` is three pages long.
    """
    with explain_failure("KVM_SET_IDENTITY_MAP_ADDR"):
        fcntl.ioctl(vm.fd, KVM_SET_IDENTITY_MAP_ADDR, struct.pack("=Q", identity_map))
    with explain_failure("KVM_SET_TSS_ADDR"):
        # Above 2 GiB, too large for fcntl.
        argument = ctypes.c_ulong(task_state)
        if libc.ioctl(vm.fd, ctypes.c_ulong(KVM_SET_TSS_ADDR), argument):
            raise OSError(ctypes.get_errno(), "the address is refused")
