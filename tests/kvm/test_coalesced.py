"""Writes that KVM collects in its ring instead of ending KVM_RUN for each."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from slipway.vmm.kvm.abi import RING_ENTRIES
from support.guest_code import COM1, COM2, CRASH, DATA, Code
from support.waiting import block_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm.conftest import Bare
    from support.bare_metal import BareMetal

ROOM = RING_ENTRIES - 1  # a ring that is full looks like an empty one
MEMORY_DEVICE = 0xD000_0000
PLAIN = 0x10


class Log:
    """What devices get, in its order, each with the name of its device."""

    def __init__(self, machine: BareMetal) -> None:
        self.entries: list[tuple[str, bytes]] = []
        self._machine = machine

    def add_port(self, name: str, port: int, *, coalesced: bool = True) -> None:
        self._machine.add_port(port, 8, _Port(self, name))
        if coalesced:
            self._machine.coalesce(port, lambda data: self.entries.append((name, data)))

    def runs(self) -> list[tuple[str, bytes]]:
        """The same, however many calls it took."""
        grouped = groupby(self.entries, lambda entry: entry[0])
        return [(name, b"".join(data for _, data in entries)) for name, entries in grouped]

    def bytes_of(self, name: str) -> bytes:
        return b"".join(data for entry, data in self.entries if entry == name)


class _Port:
    def __init__(self, log: Log, name: str) -> None:
        self._log = log
        self._name = name

    def read(self, offset: int, size: int) -> int:
        return 0x60

    def write(self, offset: int, size: int, value: int) -> None:
        self._log.entries.append((self._name, value.to_bytes(size, "little")))


def exits(machine: BareMetal) -> int:
    return sum(machine.thread.exits.values())


def test_bytes_of_a_whole_fifo_come_with_the_next_exit(bare: Bare) -> None:
    data = bytes(range(64))
    machine = bare(Code().text(COM1, data).end_test())
    log = Log(machine)
    log.add_port("com1", COM1)

    machine.run()

    assert log.entries == [("com1", data)]
    assert exits(machine) == 2  # the read after them, and the end


@pytest.mark.parametrize("count", [ROOM - 1, ROOM, ROOM + 1, RING_ENTRIES + 1, 1000])
def test_ring_that_is_full_loses_nothing(bare: Bare, count: int) -> None:
    code = Code().repeat(count, "again").out_counter(COM1).until_zero("again")
    machine = bare(code.end_test())
    log = Log(machine)
    log.add_port("com1", COM1)

    machine.run()

    assert log.bytes_of("com1") == bytes(number & 0xFF for number in range(count, 0, -1))
    # Before Linux 6.12 the ring may say that it is full at half of its size.
    assert exits(machine) <= count // (RING_ENTRIES // 2) + 1


def test_string_that_is_longer_than_the_ring_loses_nothing(bare: Bare) -> None:
    data = bytes(number % 251 for number in range(1000))
    machine = bare(Code().out_string(COM1, DATA, len(data)).end_test())
    machine.memory.write(DATA, data)
    log = Log(machine)
    log.add_port("com1", COM1)

    machine.run()

    assert log.bytes_of("com1") == data


def test_ring_goes_round(bare: Bare) -> None:
    code, expected = Code(), b""
    for number in range(20):
        part = bytes((number,)) * (30 + number)
        code.text(COM1, part)
        expected += part
    machine = bare(code.end_test())
    log = Log(machine)
    log.add_port("com1", COM1)

    machine.run()

    assert len(expected) > 4 * ROOM
    assert log.bytes_of("com1") == expected
    assert exits(machine) == 21


def test_order_among_other_accesses_is_kept(bare: Bare) -> None:
    code = Code().out(COM1, 1).out(COM1, 2).out(PLAIN, 3).out(COM1, 4)
    code.store(MEMORY_DEVICE, 5, 4).out(COM1, 6).read_port(PLAIN).out(PLAIN, 7).end_test()
    machine = bare(code)
    log = Log(machine)
    log.add_port("com1", COM1)
    log.add_port("plain", PLAIN, coalesced=False)
    machine.bus.add_memory(MEMORY_DEVICE, 8, _Port(log, "memory"))

    machine.run()

    assert log.runs() == [
        ("com1", b"\1\2"),
        ("plain", b"\3"),
        ("com1", b"\4"),
        ("memory", b"\5\0\0\0"),
        ("com1", b"\6"),
        ("plain", b"\7"),
    ]


def test_runs_to_two_ports_stay_in_order(bare: Bare) -> None:
    pattern = "112122211121"
    code = Code()
    for number, port in enumerate(pattern):
        code.out(COM1 if port == "1" else COM2, number)
    machine = bare(code.end_test())
    log = Log(machine)
    log.add_port("1", COM1)
    log.add_port("2", COM2)

    machine.run()

    expected = [
        (port, bytes(number for number, _ in group))
        for port, group in groupby(enumerate(pattern), lambda item: item[1])
    ]
    assert log.entries == expected
    assert exits(machine) == 1


def test_write_that_is_wider_than_its_place_is_an_exit_in_order(bare: Bare) -> None:
    machine = bare(Code().out(COM1, 1).out(COM1, 0x0302, size=2).out(COM1, 4).end_test())
    log = Log(machine)
    log.add_port("com1", COM1)

    machine.run()

    assert log.bytes_of("com1") == b"\1\2\3\4"
    assert exits(machine) == 2


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_writes_to_memory_keep_their_size(bare: Bare, size: int) -> None:
    value = 0x1122_3344_5566_7788
    code = Code().store(MEMORY_DEVICE, value, size).store(MEMORY_DEVICE, ~value % 2**64, size)
    machine = bare(code.end_test())
    machine.vm.coalesce_memory(MEMORY_DEVICE, 8)
    got: list[bytes] = []
    machine.bus.add_burst(MEMORY_DEVICE, got.append)

    machine.run()

    first, second = value.to_bytes(8, "little"), (~value % 2**64).to_bytes(8, "little")
    assert b"".join(got) == first[:size] + second[:size]
    assert exits(machine) == 1


def test_output_before_a_crash_is_not_lost(bare: Bare) -> None:
    machine = bare(Code().out(COM1, 0x42).crash())
    log = Log(machine)
    log.add_port("com1", COM1)

    assert CRASH in machine.run().text
    assert log.entries == [("com1", b"\x42")]


@pytest.mark.parametrize("end", [Code.spin, Code.halt])
def test_guest_that_has_no_more_exits_is_drained_when_it_is_paused(
    bare: Bare, end: Callable[[Code], Code]
) -> None:
    machine = bare(end(Code().out(COM1, 0x42).store(DATA + 8, 1)))
    log = Log(machine)
    log.add_port("com1", COM1)
    machine.start()
    block_until(lambda: machine.number(DATA + 8), "the guest has written its mark")

    machine.thread.pause()

    assert log.entries == [("com1", b"\x42")]
