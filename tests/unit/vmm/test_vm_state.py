"""What of a memory is worth keeping, and which of its pages a process has made its own."""

from __future__ import annotations

import mmap
import os
from contextlib import closing

from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.vmm.memory import GuestMemory
from slipway.vmm.pages import merge_ranges
from slipway.vmm.snapshot import pagemap
from slipway.vmm.snapshot.pieces import PIECE_BYTES, find_data

fast = settings(deadline=None, derandomize=True, database=None, max_examples=100)
PAGE = 4096
MIB = 1 << 20


@given(st.sets(st.integers(0, 63)))
@fast
def test_pages_with_something_in_them_are_kept_and_no_others(pages: set[int]) -> None:
    memory = bytearray(64 * PAGE)
    for page in pages:
        memory[page * PAGE + page] = 1

    pieces = list(find_data(memoryview(memory)))

    kept = bytearray(len(memory))
    for start, data in pieces:
        assert len(data) <= PIECE_BYTES
        kept[start : start + len(data)] = data
    assert kept == memory
    assert sum(len(data) for _, data in pieces) == len(pages) * PAGE
    assert [start for start, _ in pieces] == sorted(start for start, _ in pieces)


def file_of(pieces: dict[int, bytes], size: int) -> int:
    descriptor = os.memfd_create("memory")
    os.ftruncate(descriptor, size)
    for start, data in pieces.items():
        os.pwrite(descriptor, data, start)
    return descriptor


def test_memory_begins_as_its_file_and_does_not_change_it() -> None:
    size = 16 * MIB
    file = file_of({0: b"first", 5 * MIB: b"middle", size - 4: b"last"}, size)
    with closing(GuestMemory([(0, size)], file)) as memory:
        begins = [memory.read(0, 5), memory.read(5 * MIB, 6), memory.read(size - 4, 4)]
        memory.write(0, b"other")
        memory.write(10 * MIB, b"new")

        kept = [os.pread(file, 5, 0), os.pread(file, 3, 10 * MIB)]
        blocks = os.fstat(file).st_blocks
    os.close(file)

    assert begins == [b"first", b"middle", b"last"]
    assert kept == [b"first", bytes(3)]
    assert blocks * 512 == 3 * PAGE
    assert memory.host_address % (2 * MIB) == 0


def test_writing_to_a_large_hole_does_not_fill_the_file() -> None:
    size = 16 * MIB
    file = file_of({}, size)
    with closing(GuestMemory([(0, size)], file)) as memory:
        memory.write(3 * MIB, b"new")

        assert os.fstat(file).st_blocks == 0
    os.close(file)


def test_own_pages_are_those_that_were_written_to() -> None:
    size = 8 * MIB
    file = file_of({0: b"x" * size}, size)
    with closing(GuestMemory([(0, size)], file)) as memory:
        memory.read(5 * PAGE, 1)
        for page in (1, 2, 700):
            memory.write(page * PAGE, b"new")
        descriptor = pagemap.open_pagemap(pagemap.open_process(), memory.host_address)
        own = pagemap.read_own(descriptor, size)
        os.close(descriptor)
    os.close(file)

    assert own == [(PAGE, 3 * PAGE), (700 * PAGE, 701 * PAGE)]


def test_populated_pages_are_own_ones_with_the_files_content() -> None:
    size = 8 * MIB
    file = file_of({0: b"x" * size}, size)
    with closing(GuestMemory([(0, size)], file)) as memory:
        memory.populate([(PAGE, 3 * PAGE), (4 * MIB, 4 * MIB + PAGE)])
        descriptor = pagemap.open_pagemap(pagemap.open_process(), memory.host_address)
        own = pagemap.read_own(descriptor, size)
        os.close(descriptor)
        content = memory.read(PAGE, 1)
    os.close(file)

    assert own == [(PAGE, 3 * PAGE), (4 * MIB, 4 * MIB + PAGE)]
    assert content == b"x"


def test_pagemap_that_tells_nothing_has_no_own_pages() -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)

    assert pagemap.read_own(descriptor, MIB) == []
    os.close(descriptor)


def test_ranges_are_joined_across_gaps() -> None:
    ranges = [(8, 12), (0, 4), (4, 6), (5, 5)]

    assert merge_ranges(ranges) == [(0, 6), (8, 12)]
    assert merge_ranges(ranges, gap=2) == [(0, 12)]


def test_mapping_is_given_back() -> None:
    file = file_of({0: b"x"}, MIB)
    memory = GuestMemory([(0, MIB)], file)
    address = memory.host_address
    memory.close()
    os.close(file)

    # A mapping of ours in its place would be refused otherwise.
    with mmap.mmap(-1, mmap.PAGESIZE):
        assert address
