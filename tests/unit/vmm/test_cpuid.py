"""What CPUID tells a guest of its processors, from what a host's KVM offers."""

from __future__ import annotations

import pytest

from slipway.vmm.arch.x86_64.cpuid import build_entries

Entry = tuple[int, ...]

HYPERVISOR, TSC_DEADLINE, HYPERTHREADING = 1 << 31, 1 << 24, 1 << 28
ONES = 0xFFFF_FFFF
# The kinds of caches in leaf 4 and 0x8000_001d: bits 4-0 the type, 7-5 the level.
L1_DATA, L2, L3 = 0x21, 0x43, 0x63
HOST = [
    (0x0, 0, 0, 0x20, 0x756E_6547, 0x6C65_746E, 0x4965_6E69),
    (0x1, 0, 0, 0x000A_0F11, 0x0520_0800, 0x0000_2203, HYPERTHREADING | 0x178B_FBFF),
    *((0x4, at, 1, kind | 0xFC00_C000, 1, 2, 3) for at, kind in enumerate((L1_DATA, L2, L3))),
    (0xA, 0, 0, 0x0730_0402, 0x1, 0x2, 0x603),
    (0xB, 0, 1, 1, 2, 0x100, 5),
    (0xB, 1, 1, 4, 16, 0x201, 5),
    (0x1F, 0, 1, 1, 2, 0x100, 5),
    (0x4000_0000, 0, 0, 0x4000_0001, 0x4B4D_564B, 0x564B_4D56, 0x4D),
    (0x8000_0008, 0, 0, 0x3030, 0x5, 0x700F, 0),
    *((0x8000_001D, at, 1, kind | 0x1C000, 4, 5, 6) for at, kind in enumerate((L1_DATA, L2, L3))),
    (0x8000_001E, 0, 0, 5, 0x102, 0x3, 0),
]


def leaf(entries: list[Entry], function: int, index: int = 0) -> Entry:
    """eax, ebx, ecx and edx of the only such entry."""
    (found,) = [entry[3:] for entry in entries if entry[:2] == (function, index)]
    return found


def build(number: int = 0, count: int = 1, *, tsc_deadline: bool = True) -> list[Entry]:
    return build_entries(HOST, number, count, tsc_deadline)


@pytest.mark.parametrize(("number", "count"), [(0, 1), (0, 4), (3, 4), (6, 7)])
def test_processor_knows_its_number_and_that_of_all(number: int, count: int) -> None:
    eax, ebx, ecx, edx = leaf(build(number, count), 1)

    assert eax == 0x000A_0F11
    assert (ebx >> 24, ebx >> 16 & 0xFF, ebx & 0xFFFF) == (number, count, 0x0800)
    assert ecx & HYPERVISOR
    assert bool(edx & HYPERTHREADING) == (count > 1)
    assert edx | HYPERTHREADING == HYPERTHREADING | 0x178B_FBFF


@pytest.mark.parametrize("tsc_deadline", [True, False])
def test_timer_is_offered_where_kvm_has_it(tsc_deadline: bool) -> None:
    ecx = leaf(build(tsc_deadline=tsc_deadline), 1)[2]

    assert bool(ecx & TSC_DEADLINE) == tsc_deadline


@pytest.mark.parametrize(
    ("count", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4)]
)
@pytest.mark.parametrize("function", [0xB, 0x1F])
def test_topology_is_cores_of_one_package(function: int, count: int, bits: int) -> None:
    number = count - 1
    entries = build(number, count)

    assert leaf(entries, function, 0) == (0, 1, 0x100, number)
    assert leaf(entries, function, 1) == (bits, count, 0x201, number)
    assert leaf(entries, function, 2) == (0, 0, 2, number)


def test_topology_is_there_on_a_host_that_has_none() -> None:
    host = [entry for entry in HOST if entry[0] not in {0xB, 0x1F}]

    assert leaf(build_entries(host, 1, 2, True), 0xB, 1) == (1, 2, 0x201, 1)


@pytest.mark.parametrize(("function", "shift"), [(0x4, 14), (0x8000_001D, 14)])
def test_last_cache_is_shared_and_the_others_are_not(function: int, shift: int) -> None:
    entries = build(0, 4)
    sharers = [leaf(entries, function, at)[0] >> shift & 0xFFF for at in range(3)]

    assert sharers == [0, 0, 3]
    assert [leaf(entries, function, at)[0] & 0xFF for at in range(3)] == [L1_DATA, L2, L3]


def test_caches_name_the_number_of_cores() -> None:
    entries = build(0, 4)

    assert {leaf(entries, 0x4, at)[0] >> 26 for at in range(3)} == {3}
    assert [leaf(entries, 0x4, at)[1:] for at in range(3)] == [(1, 2, 3)] * 3


def test_counters_of_performance_are_hidden() -> None:
    assert leaf(build(), 0xA) == (0, 0, 0, 0)


def test_amd_is_told_in_its_own_leaves() -> None:
    entries = build(3, 4)

    assert leaf(entries, 0x8000_0008) == (0x3030, 0x5, 2 << 12 | 3, 0)
    assert leaf(entries, 0x8000_001E) == (3, 3, 0, 0)


def test_other_leaves_are_the_hosts() -> None:
    for function in (0x0, 0x4000_0000):
        assert leaf(build(2, 4), function) == leaf(list(HOST), function)


@pytest.mark.parametrize("count", [1, 2, 64])
def test_registers_are_of_32_bits_whatever_the_host_says(count: int) -> None:
    host = [(*entry[:3], ONES, ONES, ONES, ONES) for entry in HOST]
    for number in {0, count - 1}:
        for entry in build_entries(host, number, count, True):
            assert len(entry) == 7
            assert all(0 <= value <= ONES for value in entry)


def test_no_entry_is_there_twice() -> None:
    keys = [entry[:2] for entry in build(1, 4)]

    assert len(set(keys)) == len(keys)
    assert sum(entry[0] in {0xB, 0x1F} for entry in build(1, 4)) == 6
    assert {entry[2] for entry in build(1, 4) if entry[0] in {0xB, 0x1F}} == {1}
