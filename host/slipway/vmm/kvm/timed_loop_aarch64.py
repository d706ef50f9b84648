"""Guest of aarch64 whose loop is timed; see :mod:`slipway.vmm.kvm.usability`.

A processor with translation off fetches instructions from its cache only if SCTLR_EL1.I is set.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from slipway.vmm.kvm import aarch64
from slipway.vmm.kvm.abi import ExitReason

if TYPE_CHECKING:
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm

# One instruction sets the counter, to less than 65,536. In the lab an entry into the guest costs as
# much as 100,000 turns when the host is busy.
TURNS = 60_000
CODE = struct.pack(
    "<10I",
    0xD503_201F,  # nop: at a second run KVM skips this one, as the store that ended the first
    0xD538_1002,  # mrs x2, sctlr_el1
    0xB274_0042,  # orr x2, x2, #0x1000
    0xD518_1002,  # msr sctlr_el1, x2
    0xD503_3FDF,  # isb
    0xD280_0000 | TURNS << 5,  # mov x0, #TURNS
    0xF100_0400,  # again: subs x0, x0, #1
    0x54FF_FFE1,  # b.ne again
    0xD2A0_0021,  # mov x1, #0x10000, where there is no memory
    0xB900_003F,  # str wzr, [x1]
)
END = int(ExitReason.MMIO)

find_machine_type = aarch64.find_machine_type


def prepare(vm: Vm, vcpu: Vcpu) -> None:
    """Reset the vCPU, and check that the host has the interrupt controller of our machines.

    Raises:
        HostError: KVM refuses a call, or the host's interrupt controller is older.
    """
    aarch64.initialise_vcpus(vm, [vcpu])
    aarch64.check_vgic(vm)


def rewind(vcpu: Vcpu, address: int) -> None:
    """Set PC."""
    aarch64.set_register(vcpu, aarch64.PC, address)
