"""What a guest does that its VMM hears of: registers in memory, and its own end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway.vmm.bus import KEPT_UNKNOWN
from slipway.vmm.kvm.abi import ExitReason
from support.bare_metal import Recorder
from support.guest_code import CRASH, DATA, IS_ARM, NOWHERE, UNUSED_PORT, Code
from support.waiting import block_until

if TYPE_CHECKING:
    from kvm.conftest import Bare

DEVICE = 0xD000_0000
VALUE = 0x1122_3344_5566_7788


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_register_is_written(bare: Bare, size: int) -> None:
    machine, device = bare(Code().store(DEVICE + 0x18, VALUE, size).end_test()), Recorder()
    machine.bus.add_memory(DEVICE, 0x1000, device)

    machine.run()

    assert device.seen == [("write", 0x18, size, VALUE & (1 << 8 * size) - 1)]
    # The other is that of the test's end.
    assert machine.thread.exits[ExitReason.MMIO] == 1 + IS_ARM
    assert sum(machine.thread.exits.values()) == 2


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_register_is_read(bare: Bare, size: int) -> None:
    machine = bare(Code().load(DEVICE + 0x18, size).store(DATA).end_test())
    device = Recorder([VALUE])
    machine.bus.add_memory(DEVICE, 0x1000, device)

    machine.run()

    assert machine.number() == VALUE & (1 << 8 * size) - 1
    assert device.seen == [("read", 0x18, size, machine.number())]


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_address_of_nobody_reads_as_ones_and_takes_what_is_written(bare: Bare, size: int) -> None:
    code = Code().store(NOWHERE, 0, size).load(NOWHERE, size).store(DATA).end_test()
    machine = bare(code)

    machine.run()

    assert machine.number() == (1 << 8 * size) - 1
    assert machine.bus.unknown == 2


def test_addresses_of_nobody_that_are_kept_apart_are_few(bare: Bare) -> None:
    machine = bare(Code().touch_each(NOWHERE, 1000).end_test())

    machine.run()

    assert machine.bus.unknown == 1000
    assert len(machine.bus.counts) == KEPT_UNKNOWN + 1  # and the port that says that it is done
    assert sum(machine.bus.counts.values()) <= 1001


def test_place_that_is_asked_often_hides_no_other(bare: Bare) -> None:
    code = Code().repeat(2 * KEPT_UNKNOWN, "again").out(UNUSED_PORT, 0).until_zero("again")
    machine = bare(code.out(UNUSED_PORT + 1, 0).end_test())

    machine.run()

    assert machine.bus.counts[not IS_ARM, True, UNUSED_PORT] == 2 * KEPT_UNKNOWN
    assert machine.bus.counts[not IS_ARM, True, UNUSED_PORT + 1] == 1


def test_halted_guest_stays_in_the_kernel(bare: Bare) -> None:
    machine = bare(Code().store(DATA, 1).halt()).start()
    block_until(machine.number, "the guest counts")

    machine.thread.pause()
    machine.thread.stop()

    assert machine.thread.exits == {}
    assert machine.endings == []


def test_crash_is_no_end_that_the_guest_wanted(bare: Bare) -> None:
    machine = bare(Code().crash())

    ending = machine.run()

    assert ending.text.startswith(CRASH)
    assert not ending.wanted
