"""Registers of a vCPU: at the kernel's entry, and in the report of an end."""

from __future__ import annotations

import struct

from slipway._util.errors import HostError
from slipway.vmm.arch.aarch64 import layout
from slipway.vmm.kvm import aarch64 as kvm_arm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm
    from slipway.vmm.memory import GuestMemory

# Fields of SCTLR_EL1 and TCR_EL1 (Arm ARM, section D17.2). The two halves of the address space have
# a size and a granule each, which are encoded differently.
_SCTLR_M = 1
_T0SZ_SHIFT, _T1SZ_SHIFT, _SIZE_MASK = 0, 16, 0x3F
_TG0_SHIFT, _TG1_SHIFT, _GRANULE_MASK = 14, 30, 3
_TG0_4K, _TG1_4K = 0, 2
# Descriptors of a table with pages of 4 KiB (section D8.3).
_VALID, _TABLE = 1, 2
_ADDRESS = 0x0000_FFFF_FFFF_F000
_INSTRUCTION_BYTES = 16


def connect(vm: Vm, vcpus: Sequence[Vcpu]) -> None:
    """Reset the vCPUs, and make the GIC for them.

    Raises:
        HostError: there are more vCPUs than the GIC's place holds, or KVM refuses a call.
    """
    if len(vcpus) > layout.MAX_VCPUS:
        raise HostError(
            f"the interrupt controller holds {layout.MAX_VCPUS} vCPUs, not {len(vcpus)}",
            "Give the machine fewer: --cpus.",
        )
    kvm_arm.initialise_vcpus(vm, vcpus)
    interrupts = layout.FIRST_INTID + layout.LINES
    kvm_arm.create_vgic(vm, layout.DISTRIBUTOR, layout.REDISTRIBUTORS, interrupts)


def prepare(kvm: Kvm, vcpu: Vcpu, count: int, entry: int) -> None:
    """Bring ``vcpu`` to where it may run: the first to ``entry``; the others wait for PSCI.

    A reset vCPU is at EL1 with all interrupts masked and without translation, as the kernel wants
    (Documentation/arm64/booting.rst, section 4).

    Raises:
        HostError: KVM refuses a call.
    """
    if vcpu.number == 0:
        kvm_arm.set_register(vcpu, kvm_arm.PC, entry)
        kvm_arm.set_register(vcpu, kvm_arm.X0, layout.DEVICE_TREE)


def describe(vcpu: Vcpu, memory: GuestMemory) -> list[str]:
    """Return the registers and the bytes at PC, in lines for people."""
    shown = kvm_arm.GENERAL_REGISTERS | kvm_arm.SYSTEM_REGISTERS
    values = {name: kvm_arm.read_register(vcpu, register) for name, register in shown.items()}
    cells = [f"{name} {value:016x}" for name, value in values.items()]
    lines = [f"vCPU {vcpu.number}:"]
    lines += ["  " + "  ".join(cells[at : at + 4]) for at in range(0, len(cells), 4)]
    code = _read_code(memory, values["pc"], values)
    lines.append(f"  bytes at pc: {code.hex(' ') if code else 'not readable'}")
    return lines


def _read_code(memory: GuestMemory, address: int, registers: dict[str, int]) -> bytes:
    """Return up to 16 bytes at the virtual ``address``; empty if that is not mapped."""
    from slipway.vmm.memory import GuestAddressError

    try:
        physical = address
        if registers["sctlr"] & _SCTLR_M:
            physical = _translate(memory, address, registers)
        room = layout.PAGE - physical % layout.PAGE
        return memory.read(physical, min(_INSTRUCTION_BYTES, room))
    except GuestAddressError:
        return b""


def _translate(memory: GuestMemory, address: int, registers: dict[str, int]) -> int:
    """Return the guest physical address of ``address``; only for pages of 4 KiB.

    Raises:
        GuestAddressError: the address is not mapped.
    """
    from slipway.vmm.memory import GuestAddressError

    tcr = registers["tcr"]
    if address >> 63:
        table, size = registers["ttbr1"], tcr >> _T1SZ_SHIFT & _SIZE_MASK
        is_walkable = tcr >> _TG1_SHIFT & _GRANULE_MASK == _TG1_4K
    else:
        table, size = registers["ttbr0"], tcr >> _T0SZ_SHIFT & _SIZE_MASK
        is_walkable = tcr >> _TG0_SHIFT & _GRANULE_MASK == _TG0_4K
    bits = 64 - size
    if not is_walkable or not 12 < bits <= 48:
        raise GuestAddressError
    # ASID above the address, CnP below.
    table &= _ADDRESS
    address &= (1 << bits) - 1
    # From the first level that has more than one entry down to pages; nine bits each.
    for shift in range(12 + (bits - 13) // 9 * 9, 11, -9):
        slot = table + (address >> shift & 0x1FF) * 8
        entry: int
        (entry,) = struct.unpack("<Q", memory.read(slot, 8))
        if not entry & _VALID:
            raise GuestAddressError
        table = entry & _ADDRESS
        if shift == 12 or not entry & _TABLE:
            inside = (1 << shift) - 1
            return table & ~inside | address & inside
    raise GuestAddressError
