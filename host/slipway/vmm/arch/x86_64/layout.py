"""Addresses in the guest's physical memory and among its ports.

::

    0x0000_0500  GDT
    0x0000_7000  zero page (struct boot_params)
    0x0000_9000  page tables: PML4, PDPT, four page directories
    0x0002_0000  kernel command line
    0x000E_0000  ACPI tables                        end of the BIOS's range: 0x0010_0000
    0x0010_0000  the kernel, at the addresses of its segments
         ...     initramfs, at the end of the lower memory
    0xC000_0000  end of the lower memory at most
    0xD000_0000  virtio-mmio devices
    0xFEC0_0000  IOAPIC
    0xFEE0_0000  local APICs
    0xFEFF_C000  four pages with which Intel's KVM runs real mode
    0x1_0000_0000  the rest of the memory
"""

from __future__ import annotations

PAGE = 4096

GDT = 0x500
ZERO_PAGE = 0x7000
PAGE_TABLES = 0x9000
COMMAND_LINE = 0x20000
# COMMAND_LINE_SIZE of arch/x86/include/asm/setup.h, its final NUL included.
COMMAND_LINE_SIZE = 2048
# Start of the range that a BIOS keeps for itself (EBDA); the kernel always reserves the range.
LOW_MEMORY_END = 0x9FC00
ACPI = 0xE0000
BIOS_END = 0x100000

# Lower memory ends here at the latest; the range from here to 4 GiB belongs to devices.
HOLE = 0xC000_0000
HOLE_END = 0x1_0000_0000

VIRTIO = 0xD000_0000
VIRTIO_SIZE = 0x1000
IO_APIC = 0xFEC0_0000
LOCAL_APIC = 0xFEE0_0000
IDENTITY_MAP = 0xFEFF_C000
TASK_STATE = 0xFEFF_D000

# Ports and ISA interrupts, where a PC has them.
COM1, COM1_IRQ = 0x3F8, 4
COM2, COM2_IRQ = 0x2F8, 3
SERIAL_PORTS = 8
KEYBOARD = 0x60
KEYBOARD_PORTS = 5
RTC, RTC_IRQ = 0x70, 8
RTC_PORTS = 2
# The first line of the IOAPIC behind those of ISA devices.
VIRTIO_LINE = 16
