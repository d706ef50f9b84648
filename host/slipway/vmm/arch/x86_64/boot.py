"""Memory content at the kernel's start: GDT, page tables, zero page, command line.

Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst, section "64-bit boot protocol").
"""

from __future__ import annotations

import struct

from slipway.vmm.arch.x86_64 import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.memory import GuestMemory

# Flat 64-bit code and flat data at the selectors that the protocol wants, __BOOT_CS and __BOOT_DS.
BOOT_CS = 0x10
BOOT_DS = 0x18
GDT = struct.Struct("<4Q")
_CODE = 0x00AF_9B00_0000_FFFF
_DATA = 0x00CF_9300_0000_FFFF
GDT_LIMIT = GDT.size - 1

_PRESENT_WRITABLE = 0x3
_LARGE = 0x80
_LARGE_PAGE = 2 << 20
_DIRECTORIES = 4

# Offsets in struct boot_params (arch/x86/include/uapi/asm/bootparam.h).
_ACPI_RSDP = 0x70
_E820_COUNT = 0x1E8
_E820_TABLE = 0x2D0
_E820_ENTRY = struct.Struct("<QQI")
_E820_RAM = 1
_E820_RESERVED = 2
# struct setup_header, from 0x1f1 on: only what a 64-bit entry reads.
_BOOT_FLAG = 0x1FE, struct.pack("<H", 0xAA55)
_MAGIC = 0x202, b"HdrS"
# 2.14, which has acpi_rsdp_addr.
_VERSION = 0x206, struct.pack("<H", 0x020E)
_TYPE_OF_LOADER = 0x210, b"\xff"
_LOADED_HIGH = 0x211, b"\x01"
_RAMDISK = 0x218
_COMMAND_LINE = 0x228
_COMMAND_LINE_SIZE = 0x238


def write_tables(memory: GuestMemory) -> None:
    """Write the GDT, and page tables that map the first 4 GiB onto themselves."""
    memory.write(layout.GDT, GDT.pack(0, 0, _CODE, _DATA))
    pages = layout.PAGE_TABLES
    pointers = pages + layout.PAGE
    directories = pointers + layout.PAGE
    memory.write(pages, struct.pack("<Q", pointers | _PRESENT_WRITABLE))
    entries = [
        directories + number * layout.PAGE | _PRESENT_WRITABLE for number in range(_DIRECTORIES)
    ]
    memory.write(pointers, struct.pack(f"<{_DIRECTORIES}Q", *entries))
    count = _DIRECTORIES * 512
    first = _PRESENT_WRITABLE | _LARGE
    large = range(first, first + count * _LARGE_PAGE, _LARGE_PAGE)
    memory.write(directories, struct.pack(f"<{count}Q", *large))


def write_zero_page(
    memory: GuestMemory, command_line: bytes, ramdisk: tuple[int, int], rsdp: int
) -> None:
    """Write the command line and the zero page; ``ramdisk`` is address and size, in bytes."""
    memory.write(layout.COMMAND_LINE, command_line + b"\0")
    page = bytearray(layout.PAGE)
    for offset, value in (_BOOT_FLAG, _MAGIC, _VERSION, _TYPE_OF_LOADER, _LOADED_HIGH):
        page[offset : offset + len(value)] = value
    struct.pack_into("<II", page, _RAMDISK, *ramdisk)
    struct.pack_into("<I", page, _COMMAND_LINE, layout.COMMAND_LINE)
    struct.pack_into("<I", page, _COMMAND_LINE_SIZE, len(command_line))
    struct.pack_into("<Q", page, _ACPI_RSDP, rsdp)
    table = build_e820(memory, ramdisk)
    page[_E820_COUNT] = len(table)
    for number, entry in enumerate(table):
        _E820_ENTRY.pack_into(page, _E820_TABLE + number * _E820_ENTRY.size, *entry)
    memory.write(layout.ZERO_PAGE, page)


def build_e820(
    memory: GuestMemory, ramdisk: tuple[int, int] = (0, 0)
) -> Sequence[tuple[int, int, int]]:
    """Return the map of memory: (address, size, type) in ascending order.

    A ``ramdisk`` behind the lower memory is an entry of its own.
    """
    low, *high = memory.regions
    address, size = ramdisk
    beside = [(address, size, _E820_RAM)] if address >= low.end and size else []
    return [
        (0, layout.LOW_MEMORY_END, _E820_RAM),
        (layout.ACPI, layout.BIOS_END - layout.ACPI, _E820_RESERVED),
        (layout.BIOS_END, low.end - layout.BIOS_END, _E820_RAM),
        *beside,
        *((region.address, region.size, _E820_RAM) for region in high),
    ]
