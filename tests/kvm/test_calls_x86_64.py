"""KVM's calls for x86-64 as the project wraps them: registers, MSRs, and the local APIC."""

from __future__ import annotations

import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from slipway import HostError
from slipway.vmm.arch.x86_64 import layout
from slipway.vmm.kvm import x86_64
from slipway.vmm.kvm.system import Kvm
from support.bare_metal import MEMORY, BareMetal
from support.machine_code import NOWHERE, Code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvm.conftest import Bare
    from slipway.vmm.kvm.vm import Vm

LARGE_PAGE = 0x83  # present, writable


@pytest.fixture
def vm() -> Iterator[Vm]:
    with closing(Kvm()) as kvm, closing(kvm.create_vm()) as vm:
        yield vm


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
