"""What Linux's 64-bit entry finds in memory."""

from __future__ import annotations

import os
import struct
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from slipway import InputError
from slipway.vmm.arch.x86_64 import architecture, boot, layout
from slipway.vmm.arch.x86_64.architecture import place_memory, write_tables
from slipway.vmm.files import place_initramfs
from slipway.vmm.loader import load_files
from slipway.vmm.memory import GuestMemory
from slipway.vmm.spec import BootSpec, Plan
from support.machine_code import CODE, Code, vmlinux

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
PRESENT_WRITABLE, LARGE = 0x3, 0x80
RAM, RESERVED = 1, 2


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with closing(GuestMemory(place_memory(64 * MIB))) as memory:
        yield memory


def number(memory: GuestMemory, address: int, layout: str = "<I") -> int:
    value: int
    (value,) = struct.unpack(layout, memory.read(address, struct.calcsize(layout)))
    return value


def e820_of(memory: GuestMemory) -> list[tuple[int, ...]]:
    count = memory.read(layout.ZERO_PAGE + 0x1E8, 1)[0]
    return [
        struct.unpack("<QQI", memory.read(layout.ZERO_PAGE + 0x2D0 + 20 * at, 20))
        for at in range(count)
    ]


# --- Tables of the processor's ------------------------------------------------------------------


def translate(memory: GuestMemory, address: int) -> int | None:
    """Where a virtual address is, as the processor walks its tables."""
    table = layout.PAGE_TABLES
    for shift in (39, 30, 21):
        entry = number(memory, table + (address >> shift & 0x1FF) * 8, "<Q")
        if entry & PRESENT_WRITABLE != PRESENT_WRITABLE:
            return None
        table = entry & 0x000F_FFFF_FFFF_F000
        if entry & LARGE:
            assert shift == 21
            assert table % (2 << 20) == 0
            return table | address & ((2 << 20) - 1)
    raise AssertionError("a page of 4 KiB")


@pytest.mark.parametrize(
    "address",
    [0, 0x1234, 0x10_0000, 0x1FF_FFFF, 0x4000_0000, 0xC000_0000, 0xFEE0_0000, (4 << 30) - 1],
)
def test_first_4_gib_are_mapped_onto_themselves(memory: GuestMemory, address: int) -> None:
    boot.write_tables(memory)

    assert translate(memory, address) == address


@pytest.mark.parametrize("address", [4 << 30, 1 << 39, 0xFFFF_FFFF_8000_0000])
def test_nothing_else_is_mapped(memory: GuestMemory, address: int) -> None:
    boot.write_tables(memory)

    assert translate(memory, address) is None


@pytest.mark.parametrize(
    ("selector", "kind", "is_64_bit"),
    [(boot.BOOT_CS, 0xB, True), (boot.BOOT_DS, 0x3, False)],
    ids=["code", "data"],
)
def test_segments_are_flat(memory: GuestMemory, selector: int, kind: int, is_64_bit: bool) -> None:
    boot.write_tables(memory)
    entry = number(memory, layout.GDT + selector, "<Q")

    assert entry >> 16 & 0xFF_FFFF == 0  # base
    assert entry & 0xFFFF | entry >> 32 & 0xF_0000 == 0xF_FFFF  # limit, in pages
    assert entry >> 40 & 0xFF == 0x90 | kind  # present, ring 0
    assert bool(entry >> 53 & 1) == is_64_bit
    assert entry >> 55 & 1
    assert selector + 8 <= boot.GDT_LIMIT + 1


def test_segments_have_the_selectors_of_the_protocol() -> None:
    assert (boot.BOOT_CS, boot.BOOT_DS) == (0x10, 0x18)


# --- The zero page ------------------------------------------------------------------------------


def test_zero_page_says_who_boots_and_where_all_is(memory: GuestMemory) -> None:
    boot.write_zero_page(memory, b"quiet", (0x300_0000, 1234), 0xE_0000)
    page = layout.ZERO_PAGE

    assert number(memory, page + 0x1FE, "<H") == 0xAA55
    assert memory.read(page + 0x202, 4) == b"HdrS"
    assert number(memory, page + 0x206, "<H") >= 0x020C
    assert memory.read(page + 0x210, 1) == b"\xff"
    assert memory.read(page + 0x211, 1)[0] & 1
    assert number(memory, page + 0x218) == 0x300_0000
    assert number(memory, page + 0x21C) == 1234
    assert number(memory, page + 0x70, "<Q") == 0xE_0000
    assert number(memory, page + 0x238) == len(b"quiet")
    line = number(memory, page + 0x228)
    assert memory.read(line, 6) == b"quiet\0"


def test_zero_page_has_nothing_of_what_was_there(memory: GuestMemory) -> None:
    memory.write(layout.ZERO_PAGE, b"\xff" * layout.PAGE)

    boot.write_zero_page(memory, b"", (0, 0), 0)

    page = memory.read(layout.ZERO_PAGE, layout.PAGE)
    assert page.count(b"\xff") < 64


@pytest.mark.parametrize(
    "size", [4 * MIB, 64 * MIB, layout.HOLE, layout.HOLE + 4096, layout.HOLE + (1 << 30)]
)
def test_map_of_memory_is_in_order_and_is_what_there_is(size: int) -> None:
    with closing(GuestMemory(place_memory(size))) as memory:
        boot.write_zero_page(memory, b"", (0, 0), 0)
        table = e820_of(memory)
        regions = [(region.address, region.end) for region in memory.regions]

    assert table == sorted(table)
    for (address, length, _), (following, *_) in pairwise(table):
        assert address + length <= following
    for address, length, kind in table:
        assert length > 0
        assert kind in {RAM, RESERVED}
        assert any(start <= address and address + length <= end for start, end in regions)
    # All but what a BIOS would keep for itself is usable.
    usable = sum(length for _, length, kind in table if kind == RAM)
    assert usable == size - (layout.BIOS_END - layout.LOW_MEMORY_END)


@pytest.mark.parametrize(
    ("size", "initramfs", "place"),
    [
        (64 * MIB, 5 * MIB, 64 * MIB),
        (63 * MIB, 5 * MIB, 64 * MIB),  # from a multiple of 2 MiB on
        (layout.HOLE - 2 * MIB, 2 * MIB, layout.HOLE - 2 * MIB),
        (layout.HOLE - 2 * MIB, 2 * MIB + layout.PAGE, None),
        (layout.HOLE + MIB, layout.PAGE, None),
    ],
)
def test_initramfs_beside_the_memory_is_below_the_hole(
    size: int, initramfs: int, place: int | None
) -> None:
    assert architecture.find_initramfs_place(size, initramfs) == place


def test_map_of_memory_has_an_initramfs_beside_it_and_no_byte_more() -> None:
    with closing(GuestMemory(place_memory(64 * MIB))) as memory:
        without = boot.build_e820(memory)
        beside = boot.build_e820(memory, (64 * MIB, 3 * layout.PAGE))
        inside = boot.build_e820(memory, (60 * MIB, 3 * layout.PAGE))

    assert [*without, (64 * MIB, 3 * layout.PAGE, RAM)] == beside
    assert inside == without


def test_what_the_kernel_reads_first_is_in_usable_or_reserved_memory() -> None:
    with closing(GuestMemory(place_memory(64 * MIB))) as memory:
        table = boot.build_e820(memory)

    for address in (layout.ZERO_PAGE, layout.PAGE_TABLES, layout.COMMAND_LINE, layout.ACPI, CODE):
        assert any(start <= address < start + length for start, length, _ in table)
    kinds = {kind for start, length, kind in table if start <= layout.ACPI < start + length}
    assert kinds == {RESERVED}


# --- All together -------------------------------------------------------------------------------


def archive(directory: Path, name: str, data: bytes) -> str:
    path = directory / name
    path.write_bytes(data)
    return str(path)


def test_archives_follow_each_other_at_the_end_of_the_memory(
    memory: GuestMemory, tmp_path: Path
) -> None:
    first, second = os.urandom(5000), os.urandom(4096)
    paths = [archive(tmp_path, "1", first), archive(tmp_path, "2", second)]

    address, size = place_initramfs(memory, paths, 2 * MIB, 64 * MIB)

    assert (address % layout.PAGE, address + size) == (0, 64 * MIB)
    assert memory.read(address, size) == first + bytes(8192 - 5000) + second


def test_archive_of_just_the_room_there_is_fits(memory: GuestMemory, tmp_path: Path) -> None:
    path = archive(tmp_path, "1", b"x" * (4 * layout.PAGE))

    address, _ = place_initramfs(memory, [path], 60 * MIB, 60 * MIB + 4 * layout.PAGE)
    assert address == 60 * MIB

    with pytest.raises(InputError, match="need 61 MiB of memory") as caught:
        place_initramfs(memory, [path], 60 * MIB + 1, 60 * MIB + 4 * layout.PAGE)
    assert "--memory" in caught.value.hint


def test_no_archive_is_none(memory: GuestMemory) -> None:
    address, size = place_initramfs(memory, [], 2 * MIB, 64 * MIB)

    assert (address, size) == (64 * MIB, 0)


def test_kernel_is_loaded_with_all_that_it_needs(memory: GuestMemory, tmp_path: Path) -> None:
    code = Code(2 * MIB).raw(b"the code")
    kernel = archive(tmp_path, "kernel", vmlinux(code, address=2 * MIB, memory_size=MIB))
    initramfs = archive(tmp_path, "initramfs", b"archive")

    entry, ramdisk = load_files(architecture, memory, BootSpec(kernel, [initramfs], ""))
    write_tables(memory, Plan("quiet caf\xe9", 1, 1, 1), ramdisk)

    assert entry == 2 * MIB
    assert memory.read(2 * MIB, 9) == b"the code\0"
    assert memory.read(number(memory, layout.ZERO_PAGE + 0x218), 8) == b"archive\0"
    assert memory.read(layout.COMMAND_LINE, 12) == "quiet caf\xe9\0".encode()
    assert memory.read(layout.ACPI, 8) == b"RSD PTR "
    assert translate(memory, entry) == entry


@pytest.mark.parametrize("length", [0, layout.COMMAND_LINE_SIZE - 1])
def test_command_line_that_fits_is_given_whole(memory: GuestMemory, length: int) -> None:
    write_tables(memory, Plan("x" * length, 1, 1, 1), (0, 0))

    assert memory.read(layout.COMMAND_LINE, length + 1) == b"x" * length + b"\0"


@pytest.mark.parametrize("text", ["x" * layout.COMMAND_LINE_SIZE, "\xe9" * 1024])
def test_command_line_that_does_not_fit_is_refused(memory: GuestMemory, text: str) -> None:
    with pytest.raises(InputError, match="has 2048 bytes, and at most 2047 fit"):
        write_tables(memory, Plan(text, 1, 1, 1), (0, 0))
