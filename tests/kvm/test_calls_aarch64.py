"""KVM's calls for aarch64 as the project wraps them: registers, and the interrupt controller."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from slipway import HostError
from slipway.vmm.arch.aarch64 import architecture as arch
from slipway.vmm.arch.aarch64 import layout, processor
from slipway.vmm.kvm import aarch64
from slipway.vmm.kvm.aarch64 import GENERAL_REGISTERS, SYSTEM_REGISTERS, VgicGroup
from slipway.vmm.kvm.system import Kvm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm

# A system register of the form that KVM knows, with an encoding that no processor has.
NO_REGISTER = 0x6030_0000_0013_FFFF
INTERRUPTS = layout.FIRST_INTID + layout.LINES


@pytest.fixture
def vm() -> Iterator[Vm]:
    with closing(Kvm()) as kvm, closing(kvm.create_vm(arch.find_machine_type(kvm))) as vm:
        yield vm


@pytest.fixture
def vcpu(vm: Vm) -> Iterator[Vcpu]:
    """The only vCPU, as after a reset."""
    with closing(vm.create_vcpu(0)) as vcpu:
        aarch64.initialise_vcpus(vm, [vcpu])
        yield vcpu


# --- Registers ----------------------------------------------------------------------------------


def test_general_registers_are_what_they_were_set_to(vcpu: Vcpu) -> None:
    # Not every bit of the processor's state can be set.
    names = [name for name in GENERAL_REGISTERS if name != "pstate"]
    values = {name: 0x0101_0101_0101_0101 * number for number, name in enumerate(names, 1)}
    for name, value in values.items():
        aarch64.set_register(vcpu, GENERAL_REGISTERS[name], value)

    found = {name: aarch64.read_register(vcpu, GENERAL_REGISTERS[name]) for name in names}

    assert found == values


@pytest.mark.parametrize("name", ["ttbr0", "ttbr1", "far", "vbar"])
def test_system_register_is_what_it_was_set_to(vcpu: Vcpu, name: str) -> None:
    aarch64.set_register(vcpu, SYSTEM_REGISTERS[name], 0x4711_0000)

    assert aarch64.read_register(vcpu, SYSTEM_REGISTERS[name]) == 0x4711_0000


def test_reset_vcpu_is_where_a_kernel_wants_to_be(vcpu: Vcpu) -> None:
    """At EL1 with its own stack pointer, all interrupts masked, and without translation."""
    assert aarch64.read_register(vcpu, GENERAL_REGISTERS["pstate"]) == 0x3C5
    assert aarch64.read_register(vcpu, SYSTEM_REGISTERS["sctlr"]) & 1 == 0


def test_all_registers_that_kvm_lists_can_be_read(vcpu: Vcpu) -> None:
    registers = aarch64.list_registers(vcpu)

    values = aarch64.read_registers(vcpu, registers)

    assert len(set(registers)) == len(registers) > 200
    assert len(values) == sum(aarch64.find_register_sizes(registers))
    assert {*GENERAL_REGISTERS.values(), *SYSTEM_REGISTERS.values()} <= set(registers)


def test_register_that_does_not_exist_is_named_when_it_is_set(vcpu: Vcpu) -> None:
    with pytest.raises(HostError) as caught:
        aarch64.set_register(vcpu, NO_REGISTER, 1)

    assert caught.value.message.startswith(f"setting a vCPU's register {NO_REGISTER:#x} failed: ")
    assert caught.value.hint


def test_register_that_does_not_exist_is_not_read(vcpu: Vcpu) -> None:
    with pytest.raises(HostError, match="KVM_GET_ONE_REG failed: "):
        aarch64.read_register(vcpu, NO_REGISTER)


def test_processor_state_that_cannot_be_is_refused(vcpu: Vcpu) -> None:
    with pytest.raises(HostError, match="setting a vCPU's register"):
        aarch64.set_register(vcpu, GENERAL_REGISTERS["pstate"], 0xF)  # EL3


def test_vcpu_that_was_not_reset_has_no_registers(vm: Vm) -> None:
    with (
        closing(vm.create_vcpu(0)) as vcpu,
        pytest.raises(HostError, match="KVM_GET_REG_LIST failed: "),
    ):
        aarch64.list_registers(vcpu)


# --- Interrupt controller -----------------------------------------------------------------------


def create_vgic(vm: Vm, redistributors: int = layout.REDISTRIBUTORS) -> None:
    aarch64.create_vgic(vm, layout.DISTRIBUTOR, redistributors, INTERRUPTS)


def test_second_interrupt_controller_is_refused(vm: Vm, vcpu: Vcpu) -> None:
    create_vgic(vm)

    with pytest.raises(HostError, match="KVM_CREATE_DEVICE failed: File exists"):
        create_vgic(vm)


@pytest.mark.parametrize(
    "redistributors",
    [layout.REDISTRIBUTORS + 0x1000, layout.DISTRIBUTOR, 1 << 60],
    ids=["not aligned", "on the distributor", "beyond all addresses"],
)
def test_place_that_the_interrupt_controller_cannot_have_is_refused(
    vm: Vm, vcpu: Vcpu, redistributors: int
) -> None:
    with pytest.raises(HostError, match="placing the GIC failed: "):
        create_vgic(vm, redistributors)


def test_vcpu_comes_too_late_for_the_interrupt_controller(vm: Vm, vcpu: Vcpu) -> None:
    create_vgic(vm)

    with pytest.raises(HostError, match="KVM_CREATE_VCPU failed: "):
        vm.create_vcpu(1)


def test_line_without_an_interrupt_controller_is_refused(vm: Vm, vcpu: Vcpu) -> None:
    descriptor = os.eventfd(0, os.EFD_CLOEXEC)

    with pytest.raises(HostError, match="KVM_IRQFD failed: "):
        vm.pulse_on(descriptor, layout.VIRTIO_LINE)

    os.close(descriptor)


def test_as_many_vcpus_as_the_layout_has_room_for_fit(vm: Vm) -> None:
    vcpus = [vm.create_vcpu(number) for number in range(layout.MAX_VCPUS)]

    processor.connect(vm, vcpus)

    device = vm.devices[aarch64.VGIC_V3]
    (last,) = {vcpu.number for vcpu in vcpus[-1:]}
    typer = aarch64.read_vgic_values(device, VgicGroup.REDISTRIBUTOR, [last << 32 | 0x8], 4)
    for vcpu in vcpus:
        vcpu.close()
    assert int.from_bytes(typer, "little") & 1 << 4  # GICR_TYPER.Last
