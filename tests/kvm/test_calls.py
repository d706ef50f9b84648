"""KVM's calls as the project wraps them: what they make, take and refuse."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway import HostError
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.kvm import abi
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.memory import GuestMemory
from support.bare_metal import BareMetal, open_files
from support.guest_code import RAM, Code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvm.conftest import Bare
    from slipway.vmm.kvm.vm import Vm

SIZE = 2 << 20


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
    with closing(kvm.create_vm(find_architecture().find_machine_type(kvm))) as vm:
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

    assert within >= before + 4  # KVM, a VM, two vCPUs; the GIC of aarch64
    assert (open_files(), mappings()) == (before, mapped)


def test_vm_lives_on_without_the_device() -> None:
    kvm = Kvm()
    vm = kvm.create_vm(find_architecture().find_machine_type(kvm))
    kvm.close()

    with closing(vm), closing(vm.create_vcpu(0)) as vcpu:
        assert vcpu.number == 0


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
    place = RAM + 0x30_0000
    machine = bare(Code().load(place).store(place + 8).end_test())
    machine.memory.write(place, b"by host!")

    machine.run()

    assert machine.memory.read(place + 8, 8) == b"by host!"


# --- vCPUs --------------------------------------------------------------------------------------


def test_vcpu_that_exists_already_is_refused(vm: Vm) -> None:
    before = open_files()
    with closing(vm.create_vcpu(0)), pytest.raises(HostError, match="KVM_CREATE_VCPU failed"):
        vm.create_vcpu(0)

    assert open_files() == before


def test_interrupt_by_a_file_that_is_no_eventfd_is_refused(bare: Bare) -> None:
    machine = bare(Code())
    with Path("/dev/null").open("rb") as file, pytest.raises(HostError, match="KVM_IRQFD failed"):
        machine.vm.pulse_on(file.fileno(), 4)
