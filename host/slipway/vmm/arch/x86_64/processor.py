"""Registers of a vCPU: at the kernel's 64-bit entry, and in the report of an end."""

from __future__ import annotations

import struct

from slipway.vmm.arch.x86_64 import boot, cpuid, layout
from slipway.vmm.kvm import x86_64 as kvm_x86
from slipway.vmm.kvm.abi import Capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.memory import GuestMemory

# type, present, dpl, db, s, l, g, avl, unusable, padding of struct kvm_segment.
_CODE = (0xB, 1, 0, 0, 1, 1, 1, 0, 0, 0)
_DATA = (0x3, 1, 0, 1, 1, 0, 1, 0, 0, 0)
_CR0_PE, _CR0_ET, _CR0_NE, _CR0_WP, _CR0_PG = 1 << 0, 1 << 4, 1 << 5, 1 << 16, 1 << 31
_CR4_PAE = 1 << 5
_EFER_LME, _EFER_LMA = 1 << 8, 1 << 10

_MSRS = {
    # IA32_MISC_ENABLE: fast string operations, which the kernel's copies look for.
    0x1A0: 1,
    # IA32_MTRR_DEF_TYPE: enabled, and all memory is write-back, as firmware sets it.
    0x2FF: 1 << 11 | 6,
}

# Registers of the local APIC, by offset, and the sources at its two pins. The first is masked: the
# PIC behind it gets the lines of ISA devices as well as the IOAPIC. A kernel that was told of no
# PIC does not mask it, and each interrupt would come twice.
_LVT_LINT0, _LVT_LINT1 = 0x350, 0x360
_MASKED_EXTERNAL, _NMI = 0x10700, 0x400


def prepare(kvm: Kvm, vcpu: Vcpu, count: int, entry: int) -> None:
    """Bring ``vcpu``, of ``count``, to where it may run; the first starts at ``entry``.

    Raises:
        HostError: KVM refuses a call.
    """
    tsc_deadline = bool(kvm.get_capability(Capability.TSC_DEADLINE_TIMER))
    entries = cpuid.build_entries(
        kvm_x86.read_supported_cpuid(kvm), vcpu.number, count, tsc_deadline
    )
    kvm_x86.set_cpuid(vcpu, entries)
    kvm_x86.set_msrs(vcpu, _MSRS)
    apic = kvm_x86.read_local_apic(vcpu)
    struct.pack_into("<I", apic, _LVT_LINT0, _MASKED_EXTERNAL)
    struct.pack_into("<I", apic, _LVT_LINT1, _NMI)
    kvm_x86.set_local_apic(vcpu, apic)
    if vcpu.number == 0:  # the others wait for INIT and SIPI of the first
        _enter_long_mode(vcpu, entry)


def _enter_long_mode(vcpu: Vcpu, entry: int) -> None:
    sregs = kvm_x86.read_special_registers(vcpu)
    code = kvm_x86.SegmentRegister(boot.BOOT_CS, _CODE)
    data = kvm_x86.SegmentRegister(boot.BOOT_DS, _DATA)
    code.pack_into(sregs, kvm_x86.find_segment_offset("cs"))
    for name in ("ds", "es", "fs", "gs", "ss"):
        data.pack_into(sregs, kvm_x86.find_segment_offset(name))
    kvm_x86.TABLE.pack_into(sregs, kvm_x86.SREGS_GDT, layout.GDT, boot.GDT_LIMIT)
    kvm_x86.change_control_registers(
        sregs,
        cr0=_CR0_PE | _CR0_ET | _CR0_NE | _CR0_WP | _CR0_PG,
        cr3=layout.PAGE_TABLES,
        cr4=_CR4_PAE,
        efer=_EFER_LME | _EFER_LMA,
    )
    kvm_x86.set_special_registers(vcpu, sregs)
    kvm_x86.set_registers(vcpu, rip=entry, rsi=layout.ZERO_PAGE)


def describe(vcpu: Vcpu, memory: GuestMemory) -> list[str]:
    """Return the registers and the bytes at RIP, in lines for people."""
    registers = kvm_x86.read_registers(vcpu)
    control = kvm_x86.unpack_control_registers(kvm_x86.read_special_registers(vcpu))
    shown = registers | {name: control[name] for name in ("cr0", "cr2", "cr3", "cr4", "efer")}
    cells = [f"{name} {value:016x}" for name, value in shown.items()]
    lines = [f"vCPU {vcpu.number}:"]
    lines += ["  " + "  ".join(cells[at : at + 4]) for at in range(0, len(cells), 4)]
    code = _read_code(memory, registers["rip"], control)
    lines.append(f"  bytes at rip: {code.hex(' ') if code else 'not readable'}")
    return lines


def _read_code(memory: GuestMemory, address: int, control: dict[str, int]) -> bytes:
    """Return up to 16 bytes at the virtual ``address``; empty if that is not mapped."""
    from slipway.vmm.memory import GuestAddressError

    physical = address
    try:
        if control["cr0"] & _CR0_PG and control["efer"] & _EFER_LMA:
            levels = (48, 39, 30, 21, 12) if control["cr4"] & 1 << 12 else (39, 30, 21, 12)
            table = control["cr3"] & 0x000F_FFFF_FFFF_F000
            for shift in levels:
                slot = table + (address >> shift & 0x1FF) * 8
                (entry,) = struct.unpack("<Q", memory.read(slot, 8))
                if not entry & 1:
                    return b""
                mask = 1 << shift
                table = entry & 0x000F_FFFF_FFFF_F000
                if shift == 12 or (entry & 0x80 and shift in (21, 30)):
                    physical = table & ~(mask - 1) | address & mask - 1
                    break
        room = layout.PAGE - physical % layout.PAGE
        return memory.read(physical, min(16, room))
    except GuestAddressError:
        return b""
