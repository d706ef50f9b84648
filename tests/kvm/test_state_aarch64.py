"""State of a vCPU and a VM of aarch64, saved and restored by KVM: registers, and the GIC."""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from slipway import HostError
from slipway.vmm.arch.aarch64 import architecture as arch
from slipway.vmm.arch.aarch64 import layout
from slipway.vmm.kvm import aarch64, aarch64_state
from support.machine_code_a64 import ArmCode
from support.waiting import block_until

if TYPE_CHECKING:
    from kvm.conftest import Bare
    from support.bare_metal import BareMetal

LINE = 5
X19 = aarch64.GENERAL_REGISTERS["x19"]
V0 = 0x6040_0000_0010_0054
# The timer's counter goes on; it has the number of CNTVCT_EL0 with KVM (KVM_REG_ARM_TIMER_CNT).
COUNTER = 0x6030_0000_0013_DF1A


def save_state(bare: BareMetal) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return arch.create_processor_state(bare.kvm).save(bare.vm, bare.vcpus)


def restore_state(bare: BareMetal, vcpu: dict[str, Any], vm: dict[str, Any]) -> None:
    """Restore a state as it was saved: ``bare`` is not new, its registers have been set."""
    arch.create_processor_state(bare.kvm).restore(bare.vm, bare.vcpus, ([vcpu], vm))


def read_values(vcpu: dict[str, Any]) -> dict[int, bytes]:
    """Registers and their values."""
    values, at = {}, 0
    registers = aarch64_state.decode_register_names(vcpu["names"])
    for register, size in zip(registers, aarch64.find_register_sizes(registers), strict=True):
        values[register] = vcpu["registers"][at : at + size]
        at += size
    return values


def set_value(vcpu: dict[str, Any], register: int, value: bytes) -> dict[str, Any]:
    """Return the parts of a vCPU with another value of one register."""
    values = read_values(vcpu) | {register: value}
    return vcpu | {"registers": b"".join(values.values())}


@pytest.fixture
def fresh(bare: Bare) -> BareMetal:
    """A machine that nothing has run on."""
    return bare(ArmCode().halt())


def test_vcpu_becomes_what_another_was(bare: Bare, fresh: BareMetal) -> None:
    used = bare(ArmCode().set(19, 0x1122_3344_5566_7788).interrupts(LINE).end_test())
    assert used.run().wanted
    (vcpu,), vm = save_state(used)

    restore_state(fresh, vcpu, vm)

    (again,), vm_again = save_state(fresh)
    before, after = read_values(vcpu), read_values(again)
    assert aarch64.read_register(fresh.vcpu, X19) == 0x1122_3344_5566_7788
    first, second = (int.from_bytes(each.pop(COUNTER), "little") for each in (before, after))
    assert second >= first > 0
    assert after == before
    assert {name: again[name] for name in ("names", "mp_state", "events")} == {
        name: vcpu[name] for name in ("names", "mp_state", "events")
    }
    assert vm_again == vm


def test_vector_register_comes_along(fresh: BareMetal) -> None:
    (vcpu,), vm = save_state(fresh)

    restore_state(fresh, set_value(vcpu, V0, b"sixteen bytes ok"), vm)

    assert read_values(save_state(fresh)[0][0])[V0] == b"sixteen bytes ok"


def test_interrupt_controller_comes_along(bare: Bare, fresh: BareMetal) -> None:
    used = bare(ArmCode().interrupts(LINE).mask().end_test())
    descriptor = used.interrupt_on(LINE)
    used.run()
    idle = save_state(used)[1]
    os.eventfd_write(descriptor, 1)
    # KVM's own thread passes it on.
    block_until(lambda: save_state(used)[1] != idle, "the interrupt waits")
    (vcpu,), vm = save_state(used)

    restore_state(fresh, vcpu, vm)

    os.close(descriptor)
    assert save_state(fresh)[1] == vm
    assert {name for name in vm if vm[name] != idle[name]} == {"distributor"}


def test_state_of_a_running_vcpu_is_not_read(bare: Bare) -> None:
    """KVM reads a GIC's registers only while all vCPUs stand still."""
    machine = bare(ArmCode().spin()).start()
    block_until(machine.number, "the guest counts")

    with pytest.raises(HostError, match="reading the GIC's distributor failed: Device or resource"):
        aarch64_state.save_vgic(machine.vm, [], layout.LINES)

    machine.thread.stop()
    assert aarch64_state.save_vgic(machine.vm, machine.vcpus, layout.LINES)["distributor"]


def test_new_vcpu_becomes_what_another_was_by_the_values_that_it_lacks(bare: Bare) -> None:
    used = bare(ArmCode().set(19, 0x1122_3344_5566_7788).interrupts(LINE).end_test(), cpus=2)
    assert used.run().wanted
    vcpus, vm = save_state(used)

    changed = arch.drop_initial_values(vcpus)

    with (
        closing(used.kvm.create_vm(aarch64.find_machine_type(used.kvm))) as other,
        ExitStack() as s,
    ):
        new = [s.enter_context(closing(other.create_vcpu(number))) for number in range(2)]
        arch.connect_vcpus(other, new)
        state = arch.create_processor_state(used.kvm)
        state.restore(other, new, (changed, vm))
        again, vm_again = state.save(other, new)
    for parts, parts_again, few in zip(vcpus, again, changed, strict=True):
        before, after = read_values(parts), read_values(parts_again)
        before.pop(COUNTER), after.pop(COUNTER)
        assert after == before
        assert parts_again["mp_state"] == parts["mp_state"]
        assert 0 < len(read_values(few)) < len(before) / 2
    assert vm_again == vm


@pytest.mark.parametrize(
    "changes",
    [
        {"names": b""},
        {"names": 5},
        {"names": bytes(7)},
        {"names": bytes(8 * (aarch64_state.MAX_REGISTERS + 1))},
        {"names": struct.pack("=Q", X19), "registers": bytes(8)},
        {"registers": b""},
        {"registers": None},
        {"mp_state": bytes(3)},
        {"mp_state": struct.pack("=I", 99)},
        {"events": b""},
        {"events": bytes(0x41)},
    ],
    ids=lambda changes: "-".join(f"{name}={str(value)[:12]}" for name, value in changes.items()),
)
def test_vcpu_that_is_none_is_refused(fresh: BareMetal, changes: dict[str, Any]) -> None:
    (vcpu,), vm = save_state(fresh)

    with pytest.raises(HostError):
        restore_state(fresh, arch.drop_initial_values([vcpu | changes])[0], vm)


def test_values_that_no_processor_takes_are_refused(fresh: BareMetal) -> None:
    (vcpu,), vm = save_state(fresh)
    registers = b"\xff" * len(vcpu["registers"])

    with pytest.raises(HostError, match="setting a vCPU's register 0x"):
        restore_state(fresh, vcpu | {"registers": registers}, vm)


@pytest.mark.parametrize("name", ["names", "registers", "mp_state", "events"])
def test_vcpu_without_a_part_is_refused(fresh: BareMetal, name: str) -> None:
    (vcpu,), vm = save_state(fresh)
    del vcpu[name]

    with pytest.raises(HostError, match=f"not of this host: its {name} is missing"):
        restore_state(fresh, vcpu, vm)


@pytest.mark.parametrize(
    "name", ["distributor", "levels", "redistributor0", "interface0", "levels0"]
)
@pytest.mark.parametrize("value", [None, b"", 2, bytes(1000)], ids=str)
def test_interrupt_controller_that_is_none_is_refused(
    fresh: BareMetal, name: str, value: object
) -> None:
    (vcpu,), vm = save_state(fresh)

    with pytest.raises(HostError, match="not of this host: "):
        restore_state(fresh, vcpu, vm | {name: value})
