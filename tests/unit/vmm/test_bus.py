"""Which device an access belongs to."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.vmm.bus import KEPT_UNKNOWN, Bus
from support.bare_metal import Recorder

SIZES = (1, 2, 4)


def test_device_sees_the_offset_in_its_ports() -> None:
    bus, device = Bus(), Recorder([0x5A])
    bus.add_port(0x3F8, 8, device)

    bus.write_port(0x3FF, 1, 7)

    assert bus.read_port(0x3F8, 1) == 0x5A
    assert device.seen == [("write", 7, 1, 7), ("read", 0, 1, 0x5A)]


def test_ports_end_where_they_end() -> None:
    bus, device = Bus(), Recorder()
    bus.add_port(0x60, 5, device)

    assert (bus.read_port(0x5F, 1), bus.read_port(0x65, 1)) == (0xFF, 0xFF)
    assert device.seen == []
    assert bus.unknown == 2


def test_port_belongs_to_one_device() -> None:
    bus = Bus()
    bus.add_port(0x60, 5, Recorder())

    with pytest.raises(AssertionError):
        bus.add_port(0x64, 1, Recorder())


def test_wide_access_is_one_to_each_port() -> None:
    bus, low, high = Bus(), Recorder([0x11]), Recorder([0x33])
    bus.add_port(0x10, 1, low)
    bus.add_port(0x12, 1, high)

    bus.write_port(0x10, 4, 0xDDCC_BBAA)

    assert bus.read_port(0x10, 4) == 0xFF33_FF11
    assert (low.written, high.written) == ([0xAA], [0xCC])


@pytest.mark.parametrize("size", SIZES)
def test_last_port_has_no_neighbour(size: int) -> None:
    bus, device = Bus(), Recorder([0])
    bus.add_port(0xFFFF, 1, device)

    bus.write_port(0xFFFF, size, 0)

    assert bus.read_port(0xFFFF, size) == (1 << 8 * size) - 0x100
    assert len(device.seen) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_device_sees_the_offset_in_its_registers(size: int) -> None:
    bus, device = Bus(), Recorder([1])
    bus.add_memory(0xD000_0000, 0x1000, Recorder())
    bus.add_memory(0xD000_1000, 0x1000, device)

    bus.write_memory(0xD000_1000, size, 5)

    assert bus.read_memory(0xD000_1FFF, size) == 1
    assert device.seen == [("write", 0, size, 5), ("read", 0xFFF, size, 1)]


@pytest.mark.parametrize("size", range(1, 9))
def test_nobody_reads_as_ones_and_takes_what_is_written(size: int) -> None:
    bus, device = Bus(), Recorder()
    bus.add_memory(0x1000, 0x1000, device)
    for address in (0, 0xFFF, 0x2000, (1 << 64) - 1):
        bus.write_memory(address, size, 0)
        assert bus.read_memory(address, size) == (1 << 8 * size) - 1

    assert device.seen == []
    assert bus.unknown == 8


def test_accesses_are_counted_by_place_and_direction() -> None:
    bus = Bus()
    bus.add_port(0x10, 1, Recorder())
    bus.add_memory(0x10, 8, Recorder())
    for _ in range(2):
        bus.read_port(0x10, 1)
        bus.write_memory(0x10, 4, 0)
    bus.write_port(0x10, 2, 0)
    bus.read_memory(0x14, 4)

    assert bus.counts == {
        (True, False, 0x10): 2,
        (False, True, 0x10): 2,
        (True, True, 0x10): 1,
        (False, False, 0x14): 1,
    }
    assert bus.unknown == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 500)), max_size=2000))
@settings(deadline=None, derandomize=True, database=None, max_examples=50)
def test_what_is_kept_of_a_guest_that_tries_all_is_bounded(
    accesses: list[tuple[bool, bool, int]],
) -> None:
    bus = Bus()
    bus.add_port(100, 8, Recorder())
    bus.add_memory(100, 16, Recorder())

    for is_port, is_write, address in accesses:
        if is_port and is_write:
            bus.write_port(address, 1, 0)
        elif is_port:
            bus.read_port(address, 1)
        elif is_write:
            bus.write_memory(address, 1, 0)
        else:
            bus.read_memory(address, 1)

    known = [(p, address) for p, _, address in accesses if 100 <= address < (108 if p else 116)]
    assert bus.unknown == len(accesses) - len(known)
    assert len(bus.counts) <= KEPT_UNKNOWN + 2 * (8 + 16)
    assert sum(bus.counts.values()) <= len(accesses)
    kept = [count for (p, _, at), count in bus.counts.items() if (p, at) in known]
    assert sum(kept) == len(known)


def test_coalesced_writes_go_to_their_burst_in_order() -> None:
    bus = Bus()
    got: list[tuple[str, bytes]] = []
    bus.add_burst(0x3F8, lambda data: got.append(("com1", data)))
    bus.add_burst(0x2F8, lambda data: got.append(("com2", data)))

    bus.write_coalesced([(0x3F8, b"a"), (0x2F8, b"bc"), (0x1F8, b"nobody's"), (0x3F8, b"d")])

    assert got == [("com1", b"a"), ("com2", b"bc"), ("com1", b"d")]
    assert bus.counts == {}
