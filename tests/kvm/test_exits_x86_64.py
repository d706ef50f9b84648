"""What a guest for x86-64 does that its VMM hears of: ports, split accesses, and triple faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway.vmm.arch.x86_64 import processor
from slipway.vmm.bus import KEPT_UNKNOWN
from slipway.vmm.kvm import x86_64
from slipway.vmm.kvm.abi import ExitReason
from support.bare_metal import MEMORY, Recorder
from support.machine_code import CODE, DATA, NOWHERE, Code

if TYPE_CHECKING:
    from kvm.conftest import Bare
    from support.bare_metal import BareMetal

RESET_VECTOR = 0xFFF0
PORT = 0x10
VALUE = 0x1122_3344_5566_7788
BYTES = VALUE.to_bytes(8, "little")


def stores(size: int) -> list[tuple[str, int, int, int]]:
    """What a device of byte-wide registers sees of ``VALUE`` written in one piece."""
    return [("write", offset, 1, BYTES[offset]) for offset in range(size)]


# --- Ports --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4])
def test_port_is_written(bare: Bare, size: int) -> None:
    machine, device = bare(Code().out(PORT, VALUE & 0xFFFF_FFFF, size).end_test()), Recorder()
    machine.bus.add_port(PORT, 4, device)

    machine.run()

    assert device.seen == stores(size)
    assert machine.thread.exits == {ExitReason.IO: 2}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_port_is_read(bare: Bare, size: int) -> None:
    machine, device = bare(Code().read_port(PORT, size).store(DATA).end_test()), Recorder(BYTES)
    machine.bus.add_port(PORT, 4, device)

    machine.run()

    assert machine.number() == VALUE & (1 << 8 * size) - 1
    assert [offset for _, offset, _, _ in device.seen] == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 7, 300])
def test_string_is_written_to_a_port(bare: Bare, size: int, count: int) -> None:
    data = bytes(number % 251 for number in range(size * count))
    machine, device = bare(Code().out_string(PORT, DATA, count, size).end_test()), Recorder()
    machine.bus.add_port(PORT, 4, device)
    machine.memory.write(DATA, data)

    machine.run()

    assert bytes(device.written) == data


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 7, 300, 3000])
def test_string_is_read_from_a_port(bare: Bare, size: int, count: int) -> None:
    data = bytes(number % 251 for number in range(size * count))
    machine = bare(Code().in_string(PORT, DATA, count, size).end_test())
    machine.bus.add_port(PORT, 4, Recorder(data))

    machine.run()

    assert machine.memory.read(DATA, len(data) + 1) == data + b"\0"
    assert machine.thread.exits[ExitReason.IO] <= count + 1


def test_several_units_of_a_string_are_read_in_one_exit(bare: Bare) -> None:
    machine = bare(Code().in_string(PORT, DATA, 64).end_test())
    machine.bus.add_port(PORT, 1, Recorder(range(64)))

    machine.run()

    assert machine.thread.exits[ExitReason.IO] < 64


@pytest.mark.parametrize("size", [1, 2, 4])
def test_port_of_nobody_reads_as_ones_and_takes_what_is_written(bare: Bare, size: int) -> None:
    machine = bare(Code().out(PORT, 0, size).read_port(PORT, size).store(DATA).end_test())

    machine.run()

    assert machine.number() == (1 << 8 * size) - 1
    assert machine.bus.unknown == 2


def test_access_that_is_half_a_devices_reaches_it(bare: Bare) -> None:
    machine, device = bare(Code().read_port(PORT - 1, 2).store(DATA).end_test()), Recorder([0x42])
    machine.bus.add_port(PORT, 1, device)

    machine.run()

    assert machine.number() == 0x42FF


def test_ports_of_nobody_that_are_kept_apart_are_few(bare: Bare) -> None:
    code = (
        Code().set("rdx", 0x1000).repeat(1000, "again").raw(b"\xee\xff\xc2")
    )  # out dx, al; inc edx
    machine = bare(code.until_zero("again").end_test())

    machine.run()

    assert machine.bus.unknown == 1000
    assert len(machine.bus.counts) == KEPT_UNKNOWN + 1  # and the port that says that it is done
    assert sum(machine.bus.counts.values()) <= 1001


# --- Registers in memory ------------------------------------------------------------------------


def test_access_across_the_end_of_the_memory_is_in_two_parts(bare: Bare) -> None:
    machine = bare(Code().store(MEMORY - 4, VALUE).load(MEMORY - 4).store(DATA).end_test())
    device = Recorder([0xAABB_CCDD])
    machine.bus.add_memory(MEMORY, 8, device)

    machine.run()

    assert machine.memory.read(MEMORY - 4, 4) == BYTES[:4]
    assert device.seen[0] == ("write", 0, 4, VALUE >> 32)
    assert machine.number() == 0xAABB_CCDD << 32 | VALUE & 0xFFFF_FFFF


# --- Ends ---------------------------------------------------------------------------------------


def resets(machine: BareMetal) -> bool:
    """Whether this KVM has reset the vCPU at its triple fault, as that of AMD's processors does."""
    return x86_64.read_registers(machine.vcpu)["rip"] == RESET_VECTOR


def test_triple_fault_is_told_with_registers_and_instruction(bare: Bare) -> None:
    machine = bare(Code().set("rbx", 0x4711).crash())

    ending = machine.run()

    lines = processor.describe(machine.vcpu, machine.memory)
    assert (ending.text, ending.wanted) == ("the guest crashed: a triple fault", False)
    assert lines[0] == "vCPU 0:"
    assert lines[-1].startswith("  bytes at rip: ")
    if not resets(machine):
        assert "rbx 0000000000004711" in lines[1]
        assert f"rip {CODE + 5:016x}" in "\n".join(lines)
        assert lines[-1].startswith("  bytes at rip: 0f 0b 00")


def test_jump_to_where_nothing_is_mapped_is_told(bare: Bare) -> None:
    target = 0x7F00_0000_0000
    machine = bare(Code().set("rax", target).raw(b"\xff\xe0"))

    ending = machine.run()

    lines = processor.describe(machine.vcpu, machine.memory)
    assert "triple fault" in ending.text
    if not resets(machine):
        assert f"cr2 {target:016x}" in "\n".join(lines)
        assert lines[-1] == "  bytes at rip: not readable"


def test_instruction_that_kvm_cannot_do_is_told(bare: Bare) -> None:
    load_long_double = b"\xdb\x2f"  # fld tbyte [rdi]
    machine = bare(Code().set("rdi", NOWHERE).raw(load_long_double).end_test())

    ending = machine.run()

    assert "KVM cannot run an instruction of the guest's" in ending.text
    assert "emulation" in ending.text
    assert "db 2f" in processor.describe(machine.vcpu, machine.memory)[-1]
