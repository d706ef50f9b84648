"""Guest of x86-64 whose loop is timed; see :mod:`slipway.vmm.kvm.usability`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway.vmm.kvm import x86_64
from slipway.vmm.kvm.abi import ExitReason

if TYPE_CHECKING:
    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm

TURNS = 10_000
# 16-bit real mode: mov ecx, TURNS; again: dec ecx; jnz again; hlt
CODE = b"\x66\xb9" + TURNS.to_bytes(4, "little") + b"\x66\x49\x75\xfc\xf4"
END = int(ExitReason.HLT)


def find_machine_type(kvm: Kvm) -> int:
    """Return the only type."""
    return 0


def prepare(vm: Vm, vcpu: Vcpu) -> None:
    """Enter real mode with segments that begin at 0."""
    sregs = x86_64.read_special_registers(vcpu)
    real_mode = x86_64.SegmentRegister(0, x86_64.REAL_MODE_CODE)
    real_mode.limit = 0xFFFF
    real_mode.pack_into(sregs, x86_64.find_segment_offset("cs"))
    x86_64.set_special_registers(vcpu, sregs)


def rewind(vcpu: Vcpu, address: int) -> None:
    """Set RIP."""
    x86_64.set_registers(vcpu, rip=address)
