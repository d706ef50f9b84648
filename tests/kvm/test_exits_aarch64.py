"""Ends of a guest for aarch64: PSCI's, an access that KVM cannot decode, and a jump to nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway.vmm.arch.aarch64 import processor
from slipway.vmm.kvm import aarch64
from slipway.vmm.kvm.aarch64 import GENERAL_REGISTERS
from slipway.vmm.kvm.abi import ExitReason
from support.machine_code_a64 import CODE, DATA, NOWHERE, ArmCode
from support.waiting import block_until

if TYPE_CHECKING:
    from kvm.conftest import Bare

# PSCI (Arm DEN 0022), section 5.1
SYSTEM_OFF, SYSTEM_RESET, NO_FUNCTION = 0x8400_0008, 0x8400_0009, 0x8400_0FFF
NOT_SUPPORTED = (1 << 64) - 1
HVC, BR_X0 = 0xD400_0002, 0xD61F_0000
# Entry of a synchronous exception at EL1 with its own stack pointer, of vectors at 0.
SYNCHRONOUS_VECTOR = 0x200


@pytest.mark.parametrize("function", [SYSTEM_OFF, SYSTEM_RESET], ids=["off", "reset"])
def test_guest_ends_by_psci(bare: Bare, function: int) -> None:
    machine = bare(ArmCode().set(0, function).words(HVC).halt())

    ending = machine.run()

    assert (ending.text, ending.wanted) == ("the guest ended by itself", True)
    assert machine.thread.exits == {ExitReason.SYSTEM_EVENT: 1}


def test_function_that_psci_has_not_is_answered_by_kvm(bare: Bare) -> None:
    machine = bare(ArmCode().set(0, NO_FUNCTION).words(HVC).store(DATA).end_test())

    machine.run()

    assert machine.number() == NOT_SUPPORTED
    assert machine.thread.exits == {ExitReason.MMIO: 1}


def test_instruction_that_kvm_cannot_do_is_told_with_registers_and_place(bare: Bare) -> None:
    code = ArmCode().set(19, 0x4711).access_by_unknown_instruction()
    machine = bare(code)

    ending = machine.run()

    lines = processor.describe(machine.vcpu, machine.memory)
    assert not ending.wanted
    assert "KVM cannot run an instruction of the guest's" in ending.text
    assert lines[0] == "vCPU 0:"
    assert "x19 0000000000004711" in "\n".join(lines)
    assert f"pc {code.address('unknown'):016x}" in "\n".join(lines)
    assert lines[-1].startswith("  bytes at pc: 07 40 40 a9 00")


def test_guest_that_jumps_to_where_nothing_is_can_be_paused_and_is_told(bare: Bare) -> None:
    # Each exception is another one, as its vectors are nowhere: no exit, and no end.
    machine = bare(ArmCode().store(DATA, 1).set(0, NOWHERE).words(BR_X0)).start()
    block_until(machine.number, "the guest has written its mark")

    def has_gone_astray() -> bool:
        machine.thread.resume()
        machine.thread.pause()
        place = aarch64.read_register(machine.vcpu, GENERAL_REGISTERS["pc"])
        return place not in range(CODE, CODE + 0x100)

    block_until(has_gone_astray, "the guest has jumped")

    lines = processor.describe(machine.vcpu, machine.memory)
    assert f"pc {SYNCHRONOUS_VECTOR:016x}" in "\n".join(lines)
    assert lines[-1] == "  bytes at pc: not readable"
    assert machine.thread.exits == {}
