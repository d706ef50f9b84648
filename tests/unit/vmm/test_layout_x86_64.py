"""Nothing lies on anything else: not in memory, not among the ports, not on the interrupt lines."""

from __future__ import annotations

from itertools import pairwise

import pytest

from slipway._util.units import GIB, MIB
from slipway.vmm.arch.x86_64 import acpi, boot, layout
from slipway.vmm.arch.x86_64.architecture import find_serial_line, find_virtio_line, place_memory
from slipway.vmm.arch.x86_64.kernel import ADDRESS_LIMIT, LOWEST_ADDRESS

PAGE_TABLES_SIZE = 6 * layout.PAGE  # PML4, PDPT and four directories
LOCAL_APIC_SIZE = IO_APIC_SIZE = layout.PAGE
LAST_IO_APIC_LINE = 23
VIRTIO_DEVICES = 4
REAL_MODE_VECTORS = 0x400

LOW = {
    "interrupt vectors": (0, REAL_MODE_VECTORS),
    "GDT": (layout.GDT, boot.GDT.size),
    "zero page": (layout.ZERO_PAGE, layout.PAGE),
    "page tables": (layout.PAGE_TABLES, PAGE_TABLES_SIZE),
    "command line": (layout.COMMAND_LINE, layout.COMMAND_LINE_SIZE),
    "EBDA": (layout.LOW_MEMORY_END, 0x400),
    "ACPI": (layout.ACPI, layout.BIOS_END - layout.ACPI),
}
HOLE = {
    "virtio": (layout.VIRTIO, VIRTIO_DEVICES * layout.VIRTIO_SIZE),
    "IOAPIC": (layout.IO_APIC, IO_APIC_SIZE),
    "local APIC": (layout.LOCAL_APIC, LOCAL_APIC_SIZE),
    "identity map": (layout.IDENTITY_MAP, layout.PAGE),
    "task state": (layout.TASK_STATE, 3 * layout.PAGE),
}
PORTS = {
    "COM1": (layout.COM1, layout.SERIAL_PORTS),
    "COM2": (layout.COM2, layout.SERIAL_PORTS),
    "keyboard": (layout.KEYBOARD, layout.KEYBOARD_PORTS),
    "RTC": (layout.RTC, layout.RTC_PORTS),
}


@pytest.mark.parametrize(
    ("places", "start", "end"),
    [
        (LOW, 0, layout.BIOS_END),
        (HOLE, layout.HOLE, layout.HOLE_END),
        (PORTS, 0, 0x1_0000),
    ],
    ids=["low memory", "hole", "ports"],
)
def test_places_are_apart(places: dict[str, tuple[int, int]], start: int, end: int) -> None:
    inside = sorted(places.values())

    assert inside[0][0] >= start
    for (address, size), (following, _) in pairwise(inside):
        assert address + size <= following
    assert sum(inside[-1]) <= end


def test_kernel_begins_where_low_memory_ends() -> None:
    assert layout.BIOS_END == LOWEST_ADDRESS
    assert layout.HOLE_END == ADDRESS_LIMIT


@pytest.mark.parametrize("name", ["zero page", "page tables"])
def test_what_the_processor_walks_is_on_whole_pages(name: str) -> None:
    assert LOW[name][0] % layout.PAGE == 0


def test_tables_are_where_the_kernel_looks_for_the_first() -> None:
    """The RSDP lies on a paragraph in what a BIOS owns (ACPI 6.3, section 5.2.5.1)."""
    assert layout.ACPI % 16 == 0
    assert 0xE_0000 <= layout.ACPI < 0x10_0000


def test_tables_of_the_largest_board_fit() -> None:
    board = acpi.AcpiBoard(
        cpus=64,
        serials=(
            acpi.IsaSerial(layout.COM1, layout.COM1_IRQ),
            acpi.IsaSerial(layout.COM2, layout.COM2_IRQ),
        ),
        virtio=tuple(
            acpi.VirtioResource(layout.VIRTIO, layout.VIRTIO_SIZE, find_virtio_line(number))
            for number in range(VIRTIO_DEVICES)
        ),
        rtc=True,
        local_apic=layout.LOCAL_APIC,
        io_apic=layout.IO_APIC,
    )

    assert len(acpi.build_tables(board, layout.ACPI)) <= layout.BIOS_END - layout.ACPI


def test_interrupt_lines_are_apart_and_the_ioapics() -> None:
    lines = [find_serial_line(0), find_serial_line(1), layout.RTC_IRQ]
    lines += [find_virtio_line(number) for number in range(VIRTIO_DEVICES)]

    assert len(set(lines)) == len(lines)
    assert max(lines) <= LAST_IO_APIC_LINE
    assert find_virtio_line(0) > 15  # no ISA device's


@pytest.mark.parametrize(
    "size", [MIB, layout.HOLE - 4096, layout.HOLE, layout.HOLE + 4096, 64 * GIB]
)
def test_memory_leaves_the_hole_free_and_is_all_there(size: int) -> None:
    regions = place_memory(size)

    assert sum(length for _, length in regions) == size
    for address, length in regions:
        assert length > 0
        assert address + length <= layout.HOLE or address >= layout.HOLE_END
