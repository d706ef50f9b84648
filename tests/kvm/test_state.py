"""A guest of one machine continues in another, whose vCPUs and VM get the state of the first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from slipway import HostError
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.kvm.system import Kvm
from support.guest_code import (
    DATA,
    IS_ARM,
    OTHERS_CODE,
    OTHERS_DATA,
    RAM,
    UNUSED_PORT,
    Code,
    build_others_code,
)
from support.waiting import block_until

if TYPE_CHECKING:
    from kvm.conftest import Bare
    from support.bare_metal import BareMetal

LINE = 16
READY, GO = DATA + 8, DATA + 16

arch = find_architecture()


def save_state(bare: BareMetal) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return arch.create_processor_state(bare.kvm).save(bare.vm, bare.vcpus)


def save_interrupts(bare: BareMetal) -> list[object]:
    """What waits in the interrupt controllers: the GIC, or the local APICs."""
    vcpus, vm = save_state(bare)
    return [vm.get("distributor"), *(parts.get("lapic") for parts in vcpus)]


def continue_in(other: BareMetal, used: BareMetal) -> None:
    """Give ``other`` memory and state of ``used``, whose vCPUs stand still."""
    other.memory.write(RAM, used.memory.read(RAM, used.memory.size))
    arch.create_processor_state(other.kvm).restore(other.vm, other.vcpus, save_state(used))


def test_guest_goes_on_in_another_machine(bare: Bare) -> None:
    used = bare(Code().spin()).start()
    block_until(used.number, "the guest counts")
    used.thread.pause()
    stood = used.number()
    other = bare(Code().halt())
    continue_in(other, used)

    other.start()
    block_until(lambda: other.number() != stood, "the other machine counts on")
    other.thread.stop()

    assert other.number() > stood
    assert used.number(DATA) == stood


def test_interrupt_that_waits_is_served_by_the_other_machine(bare: Bare) -> None:
    code = Code().interrupts(LINE).mask().store(READY, 1, 1).wait_for(1, GO).unmask()
    code.end_test().handler()
    used = bare(code)
    descriptor = used.interrupt_on(LINE)
    used.start()
    block_until(lambda: used.number(READY, 1), "the guest has masked its interrupts")
    used.thread.pause()
    before = save_interrupts(used)
    os.eventfd_write(descriptor, 1)
    # KVM's own thread passes it on.
    block_until(lambda: save_interrupts(used) != before, "the interrupt waits")
    other = bare(Code().halt())
    continue_in(other, used)
    other.memory.write(GO, b"\1")

    ending = other.run()

    os.close(descriptor)
    assert (ending.text, other.number(), used.number()) == ("done", 1, 0)


def test_vcpu_that_nobody_has_started_starts_in_the_other_machine(bare: Bare) -> None:
    code = Code().store(READY, 1, 1).wait_for(1, GO).wake(1).wait_for(1, OTHERS_DATA).end_test()
    used = bare(code, cpus=2)
    used.memory.write(OTHERS_CODE, build_others_code(UNUSED_PORT, 1))
    used.start()
    block_until(lambda: used.number(READY, 1), "the guest waits")
    for thread in used.threads:
        thread.pause()
    other = bare(Code().halt(), cpus=2)
    continue_in(other, used)
    other.memory.write(GO, b"\1")

    ending = other.run()

    assert ending.text == "done"
    assert other.bus.counts[not IS_ARM, True, UNUSED_PORT] == 1


def test_all_vcpus_are_kept(bare: Bare) -> None:
    used, other = (bare(Code().halt(), cpus=2) for _ in range(2))
    vcpus, vm = save_state(used)

    arch.create_processor_state(other.kvm).restore(other.vm, other.vcpus, (vcpus, vm))

    states = [parts["mp_state"] for parts in save_state(other)[0]]
    assert states == [parts["mp_state"] for parts in vcpus]
    assert states[0] != states[1]


def test_fingerprint_is_the_same_on_every_processor() -> None:
    allowed = os.sched_getaffinity(0)
    found = set()
    try:
        for number in allowed:
            os.sched_setaffinity(0, {number})
            found.add(KvmHypervisor().fingerprint())
    finally:
        os.sched_setaffinity(0, allowed)

    assert len(found) == 1
    assert len(found.pop()) == 64


def test_fingerprint_without_kvm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kvm.__init__, "__defaults__", ("/nowhere/kvm",))

    with pytest.raises(HostError, match="no /nowhere/kvm"):
        KvmHypervisor().fingerprint()
