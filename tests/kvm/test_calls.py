"""KVM's calls as the project wraps them: what they make, take and refuse."""

from __future__ import annotations

import struct
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway import HostError
from slipway.vmm.arch.x86_64 import layout
from slipway.vmm.kvm import abi, x86_64
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.memory import GuestMemory
from support.bare_metal import MEMORY, BareMetal, open_files
from support.machine_code import NOWHERE, Code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvm.conftest import Bare
    from slipway.vmm.kvm.vm import Vm

SIZE = 2 << 20
LARGE_PAGE = 0x83  # present, writable


def mappings() -> int:
    """How many parts this process's memory has, but those that any allocation may add."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum("kvm-vcpu" in line for line in lines)


@pytest.fixture
def kvm() -> Iterator[Kvm]:
    with closing(Kvm()) as kvm:
        yield kvm


@pytest.fixture
def vm(kvm: Kvm) -> Iterator[Vm]:
    with closing(kvm.create_vm()) as vm:
        yield vm


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with closing(GuestMemory([(0, SIZE)])) as memory:
        yield memory


@pytest.mark.parametrize("capability", abi.NEEDED, ids=lambda capability: capability.name)
def test_capability_that_is_needed_is_there(kvm: Kvm, capability: abi.Capability) -> None:
    assert kvm.get_capability(capability) > 0


def test_capability_with_a_number_gives_it(kvm: Kvm) -> None:
    assert kvm.get_capability(abi.Capability.MAX_VCPUS) >= 8
    assert kvm.get_capability(abi.Capability.COALESCED_MMIO) in {1, 2, 3}


def test_all_descriptors_and_run_pages_are_given_back() -> None:
    before, mapped = open_files(), mappings()

    machine = BareMetal(Code().end_test(), cpus=2)
    within = open_files()
    machine.run()
    machine.close()

    assert within >= before + 4  # KVM, a VM, two vCPUs
    assert (open_files(), mappings()) == (before, mapped)


def test_vm_lives_on_without_the_device() -> None:
    kvm = Kvm()
    vm = kvm.create_vm()
    kvm.close()

    with closing(vm), closing(vm.create_vcpu(0)) as vcpu:
        assert x86_64.read_registers(vcpu)["rip"] == 0xFFF0


# --- Memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "size", "shift"),
    [(0x800, SIZE, 0), (0, SIZE - 0x800, 0), (0, SIZE, 0x800), (0, SIZE, 1 << 63)],
    ids=["guest address", "size", "host address", "host address of the kernel's"],
)
def test_memory_that_is_no_whole_pages_of_ours_is_refused(
    vm: Vm, memory: GuestMemory, address: int, size: int, shift: int
) -> None:
    with pytest.raises(HostError, match="KVM_SET_USER_MEMORY_REGION failed") as caught:
        vm.set_memory(0, address, size, memory.host_address + shift)

    assert "slipway doctor" in caught.value.hint


def test_memory_that_overlaps_is_refused(vm: Vm, memory: GuestMemory) -> None:
    vm.set_memory(0, 0, SIZE, memory.host_address)

    with pytest.raises(HostError, match="KVM_SET_USER_MEMORY_REGION failed: File exists") as caught:
        vm.set_memory(1, SIZE - abi.PAGE_SIZE, SIZE, memory.host_address)

    assert caught.value.hint


def test_slot_that_does_not_exist_is_refused(vm: Vm, memory: GuestMemory) -> None:
    with pytest.raises(HostError, match="KVM_SET_USER_MEMORY_REGION failed"):
        vm.set_memory(0xFFFF, 0, SIZE, memory.host_address)


def test_guest_sees_what_the_host_writes_and_the_other_way_round(bare: Bare) -> None:
    machine = bare(Code().load(0x20_0000).store(0x20_0008).end_test())
    machine.memory.write(0x20_0000, b"by host!")

    machine.run()

    assert machine.memory.read(0x20_0008, 8) == b"by host!"


def test_guest_sees_its_memory_on_both_sides_of_the_hole() -> None:
    # Its page tables end at 4 GiB: what is above it is shown at a place that has nothing.
    end, high = layout.HOLE - 8, layout.HOLE_END
    code = Code().load(NOWHERE).store(end).end_test()
    with closing(BareMetal(code, memory=layout.HOLE + MEMORY)) as machine:
        entry = layout.PAGE_TABLES + 2 * layout.PAGE + (NOWHERE >> 21) * 8
        machine.memory.write(entry, struct.pack("<Q", high | LARGE_PAGE))
        machine.memory.write(high, b"from top")

        machine.run()

        assert machine.memory.read(end, 8) == b"from top"


# --- vCPUs --------------------------------------------------------------------------------------


def test_vcpu_that_exists_already_is_refused(vm: Vm) -> None:
    before = open_files()
    with closing(vm.create_vcpu(0)), pytest.raises(HostError, match="KVM_CREATE_VCPU failed"):
        vm.create_vcpu(0)

    assert open_files() == before


def test_registers_are_what_they_were_set_to(vm: Vm) -> None:
    names = [name for name in x86_64.REGS_NAMES if name != "rflags"]
    values = {name: 0x0101_0101_0101_0101 * number for number, name in enumerate(names, 1)}
    with closing(vm.create_vcpu(0)) as vcpu:
        x86_64.set_registers(vcpu, **values)
        assert x86_64.read_registers(vcpu) == values | {"rflags": x86_64.RFLAGS_RESERVED}

        x86_64.set_registers(vcpu, rax=1)
        assert x86_64.read_registers(vcpu)["rbx"] == 0


def test_special_registers_are_what_they_were_set_to(vm: Vm) -> None:
    with closing(vm.create_vcpu(0)) as vcpu:
        sregs = x86_64.read_special_registers(vcpu)
        segment = x86_64.SegmentRegister(0x18, (3, 1, 0, 1, 1, 0, 1, 0, 0, 0), base=0x1234_5000)
        segment.pack_into(sregs, x86_64.find_segment_offset("gs"))
        x86_64.change_control_registers(sregs, cr2=0x4711, cr3=0x9000)
        x86_64.set_special_registers(vcpu, sregs)

        again = x86_64.read_special_registers(vcpu)
        control = x86_64.unpack_control_registers(again)

    assert (control["cr2"], control["cr3"]) == (0x4711, 0x9000)
    base, limit, selector, *_ = x86_64.SEGMENT.unpack_from(again, x86_64.find_segment_offset("gs"))
    assert (base, limit, selector) == (0x1234_5000, 0xFFFF_FFFF, 0x18)


def test_special_registers_that_cannot_be_are_refused(vm: Vm) -> None:
    with closing(vm.create_vcpu(0)) as vcpu:
        sregs = x86_64.read_special_registers(vcpu)
        x86_64.change_control_registers(sregs, cr0=1 << 31)  # paging without protection

        with pytest.raises(HostError, match="KVM_SET_SREGS failed"):
            x86_64.set_special_registers(vcpu, sregs)


def test_local_apic_is_what_it_was_set_to(bare: Bare) -> None:
    vcpu = bare(Code()).vcpu
    apic = x86_64.read_local_apic(vcpu)
    struct.pack_into("<I", apic, 0x350, 0x1_0000)  # LINT0, masked
    x86_64.set_local_apic(vcpu, apic)

    assert x86_64.read_local_apic(vcpu)[0x350:0x354] == b"\0\0\1\0"


def test_local_apic_without_controllers_in_the_kernel_is_refused(vm: Vm) -> None:
    with (
        closing(vm.create_vcpu(0)) as vcpu,
        pytest.raises(HostError, match="KVM_GET_LAPIC failed"),
    ):
        x86_64.read_local_apic(vcpu)


def test_msr_that_is_refused_is_named(vm: Vm) -> None:
    with closing(vm.create_vcpu(0)) as vcpu, pytest.raises(HostError) as caught:
        x86_64.set_msrs(vcpu, {0x10: 1, 0xDEAD_BEEF: 1, 0x11: 1})

    assert caught.value.message == "KVM_SET_MSRS failed: MSR 0xdeadbeef is refused"
    assert caught.value.hint


def test_interrupt_by_a_file_that_is_no_eventfd_is_refused(bare: Bare) -> None:
    machine = bare(Code())
    with Path("/dev/null").open("rb") as file, pytest.raises(HostError, match="KVM_IRQFD failed"):
        machine.vm.pulse_on(file.fileno(), 4)
