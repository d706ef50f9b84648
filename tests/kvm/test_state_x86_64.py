"""State of a vCPU and a VM of x86-64, saved and restored by KVM: MSRs, controllers, clocks."""

from __future__ import annotations

import struct
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from slipway import HostError
from slipway.vmm.arch.x86_64 import architecture as arch
from slipway.vmm.kvm import x86_64, x86_64_state
from support.bare_metal import BareMetal
from support.machine_code import Code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvm.conftest import Bare

TSC, KERNEL_GS_BASE, STAR, LSTAR, PAT = 0x10, 0xC0000102, 0xC0000081, 0xC0000082, 0x277
TSC_DEADLINE, MTRR_DEFAULT = 0x6E0, 0x2FF
XMM0, XSTATE_BV = 160, 512  # offsets in the area of XSAVE


def machine() -> BareMetal:
    return BareMetal(Code().halt())


@pytest.fixture
def fresh() -> Iterator[BareMetal]:
    """A machine that nothing has run on."""
    with closing(machine()) as fresh:
        yield fresh


def save_state(bare: BareMetal) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return arch.create_processor_state(bare.kvm).save(bare.vm, bare.vcpus)


def msrs(parts: dict[str, Any]) -> dict[int, int]:
    return dict(struct.iter_unpack("=I4xQ", parts["msrs"]))


def test_vcpu_becomes_what_another_was(bare: Bare, fresh: BareMetal) -> None:
    used = bare(Code().set("rbx", 0x1122334455667788).end_test())
    assert used.run().wanted
    values = {KERNEL_GS_BASE: 0xFFFF_8000_0000_1000, STAR: 0x23 << 48, LSTAR: 1 << 40, PAT: 6}
    x86_64.set_msrs(used.vcpu, values)
    vcpus, vm = save_state(used)

    arch.create_processor_state(fresh.kvm).restore(fresh.vm, fresh.vcpus, (vcpus, vm))

    again, vm_again = save_state(fresh)
    assert x86_64.read_registers(fresh.vcpu)["rbx"] == 0x1122334455667788
    before, after = msrs(vcpus[0]), msrs(again[0])
    assert after.pop(TSC) >= before.pop(TSC)
    assert after == before
    assert values.items() <= after.items()
    assert before[MTRR_DEFAULT] == 1 << 11 | 6
    for name in set(vcpus[0]) - {"msrs"}:
        assert again[0][name] == vcpus[0][name], name
    assert vm_again["clock"] >= vm["clock"]
    for name in set(vm) - {"clock"}:
        assert vm_again[name] == vm[name], name


def test_vector_and_debug_registers_come_along(fresh: BareMetal) -> None:
    """Put in from outside: not every KVM's emulator knows the instructions."""
    vcpus, vm = save_state(fresh)
    xsave, debug = bytearray(vcpus[0]["xsave"]), bytearray(vcpus[0]["debug"])
    xsave[XMM0 : XMM0 + 16] = b"sixteen bytes ok"
    xsave[XSTATE_BV] |= 3  # x87 and SSE are in use
    debug[:8] = struct.pack("=Q", 0x1234_5000)  # DR0
    wanted = vcpus[0] | {"xsave": bytes(xsave), "debug": bytes(debug)}

    arch.create_processor_state(fresh.kvm).restore(fresh.vm, fresh.vcpus, ([wanted], vm))

    again = save_state(fresh)[0][0]
    assert again["xsave"][XMM0 : XMM0 + 16] == b"sixteen bytes ok"
    assert again["debug"][:8] == debug[:8]


def test_interrupt_controllers_come_along(bare: Bare, fresh: BareMetal) -> None:
    used = bare(Code().interrupts(5).end_test())
    used.run()
    vcpus, vm = save_state(used)

    arch.create_processor_state(fresh.kvm).restore(fresh.vm, fresh.vcpus, (vcpus, vm))

    assert save_state(fresh)[1]["irqchip2"] == vm["irqchip2"]


def test_deadline_is_set_after_the_clock_that_it_is_of(fresh: BareMetal) -> None:
    indices = x86_64_state.list_msrs(fresh.kvm)

    assert indices[0] == TSC
    assert indices[-1] == TSC_DEADLINE
    assert len(indices) == len(set(indices))


@pytest.mark.parametrize(
    "changes",
    [
        {"regs": b""},
        {"regs": 5},
        {"sregs": bytes(1000)},
        {"xsave": bytes(100)},
        {"lapic": bytes(1023)},
        {"cpuid": bytes(41)},
        {"cpuid": bytes(40 * 257)},
        {"msrs": bytes(15)},
        {"msrs": struct.pack("=I4xQ", 0x12345678, 1)},
        {"msrs": bytes(16 * 2000)},
        {"mp_state": struct.pack("=I", 99)},
        {"tsc_khz": 0},
        {"tsc_khz": 1 << 40},
        {"tsc_khz": b"x"},
        {"xcrs": b"\xff" * 0x188},
        {"sregs": b"\xff" * 0x138},
        {"events": b"\xff" * 0x40},
    ],
    ids="-".join,
)
def test_vcpu_that_is_none_is_refused(fresh: BareMetal, changes: dict[str, Any]) -> None:
    vcpus, vm = save_state(fresh)

    with pytest.raises(HostError):
        arch.create_processor_state(fresh.kvm).restore(
            fresh.vm, fresh.vcpus, ([vcpus[0] | changes], vm)
        )


@pytest.mark.parametrize("name", ["regs", "sregs", "xsave", "msrs", "cpuid", "tsc_khz", "events"])
def test_vcpu_without_a_part_is_refused(fresh: BareMetal, name: str) -> None:
    vcpus, vm = save_state(fresh)
    del vcpus[0][name]

    with pytest.raises(HostError):
        arch.create_processor_state(fresh.kvm).restore(fresh.vm, fresh.vcpus, (vcpus, vm))


@pytest.mark.parametrize(
    "changes", [{"clock": b"x"}, {"irqchip0": b""}, {"irqchip1": bytes(520)}, {"irqchip2": 2}]
)
def test_vm_that_is_none_is_refused(fresh: BareMetal, changes: dict[str, Any]) -> None:
    vcpus, vm = save_state(fresh)

    with pytest.raises(HostError):
        arch.create_processor_state(fresh.kvm).restore(fresh.vm, fresh.vcpus, (vcpus, vm | changes))
