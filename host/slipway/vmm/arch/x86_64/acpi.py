"""ACPI tables, which tell the kernel of the devices, and of legacy devices that are missing.

*Hardware-reduced* ACPI (specification 6.3, section 4.1): no fixed registers, no SCI, no PM timer.
Linux then leaves out PIC, PIT and the check of the timer's interrupt line
(``acpi_generic_reduced_hw_init`` and ``setup_IO_APIC`` below arch/x86/kernel), gives interrupts
only to devices of the DSDT, and numbers them from 24 on. Linux does not look for a keyboard
controller and a CMOS clock that the boot flags of the FADT deny.

Sources: section 5.2 "ACPI System Description Tables"; chapter 6 "Device Configuration".
"""

from __future__ import annotations

import struct

from slipway.vmm.arch.x86_64 import aml

_OEM = b"SLIPWY"
_OEM_TABLE = b"MICROVM "
_CREATOR = b"SLPW"
_ALIGNMENT = 16
_RTC_PORT, _RTC_PORTS, _RTC_LINE = 0x70, 2, 8
_SERIAL_PORTS = 8

# Signature, length, revision, checksum, OEM, its table and revision, creator and its revision.
_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_HEADER_CHECKSUM = 9
# Signature, checksum, OEM, revision, RSDT; length, XSDT, extended checksum, reserved.
_RSDP = struct.Struct("<8sB6sBIIQB3x")
_RSDP_SIZE_1_0 = 20
_RSDP_CHECKSUM, _RSDP_EXTENDED_CHECKSUM = 8, 32

# The FADT (table 5-33) of this size is mostly zeros; these are the offsets of other fields.
_FADT_SIZE, _FADT_REVISION, _FADT_MINOR_REVISION = 276, 6, 3
_FADT_BOOT_FLAGS, _FADT_FLAGS, _FADT_MINOR, _FADT_DSDT = 109, 112, 131, 140
# IAPC_BOOT_ARCH (table 5-34). Bit 1, "8042 present", stays clear.
_NO_VGA, _NO_CMOS_RTC = 1 << 2, 1 << 5
# Fixed feature flags (table 5-35): WBINVD and HLT work; no fixed buttons, no wake-up by the RTC.
_WBINVD, _PROC_C1, _PWR_BUTTON, _SLP_BUTTON, _FIX_RTC = 1 << 0, 1 << 2, 1 << 4, 1 << 5, 1 << 6
_HEADLESS, _HW_REDUCED = 1 << 12, 1 << 20

# The MADT (section 5.2.12) and its entries: type and length, then the content.
_MADT = struct.Struct("<II")
_MADT_REVISION = 5
_LOCAL_APIC = struct.Struct("<BBBBI")
_IO_APIC = struct.Struct("<BBBxII")
_ENABLED = 1


class IsaSerial:
    """A 16550 at eight I/O ports from ``port`` on."""

    __slots__ = ("irq", "port")

    def __init__(self, port: int, irq: int) -> None:
        self.port = port
        self.irq = irq


class VirtioResource:
    """Registers of a virtio device (``size`` bytes below 4 GiB), and its line of the IOAPIC."""

    __slots__ = ("address", "gsi", "size")

    def __init__(self, address: int, size: int, gsi: int) -> None:
        self.address = address
        self.size = size
        self.gsi = gsi


class AcpiBoard:
    """Hardware that the tables describe; ``rtc``: a CMOS clock at port 0x70 with interrupt 8."""

    __slots__ = ("cpus", "io_apic", "local_apic", "rtc", "serials", "virtio")

    def __init__(
        self,
        *,
        cpus: int,
        serials: tuple[IsaSerial, ...],
        virtio: tuple[VirtioResource, ...],
        rtc: bool,
        local_apic: int = 0xFEE0_0000,
        io_apic: int = 0xFEC0_0000,
    ) -> None:
        self.cpus = cpus
        self.serials = serials
        self.virtio = virtio
        self.rtc = rtc
        self.local_apic = local_apic
        self.io_apic = io_apic


def build_tables(board: AcpiBoard, address: int) -> bytes:
    """Return all tables, for guest physical ``address``, a multiple of 16; the RSDP is the first.

    The kernel finds the RSDP by the zero page (acpi_rsdp_addr).
    """
    blob = bytearray(_RSDP.size)

    def add_table(table: bytes) -> int:
        blob.extend(bytes(-len(blob) % _ALIGNMENT))
        place = address + len(blob)
        blob.extend(table)
        return place

    dsdt = add_table(_build_table(b"DSDT", 2, _build_devices(board)))
    entries = [add_table(_build_fadt(board, dsdt)), add_table(_build_madt(board))]
    xsdt = add_table(_build_table(b"XSDT", 1, struct.pack(f"<{len(entries)}Q", *entries)))
    blob[: _RSDP.size] = _build_rsdp(xsdt)
    return bytes(blob)


def _build_rsdp(xsdt: int) -> bytes:
    data = bytearray(_RSDP.pack(b"RSD PTR ", 0, _OEM, 2, 0, _RSDP.size, xsdt, 0))
    data[_RSDP_CHECKSUM] = _compute_checksum(data[:_RSDP_SIZE_1_0])
    data[_RSDP_EXTENDED_CHECKSUM] = _compute_checksum(data)
    return bytes(data)


def _build_table(signature: bytes, revision: int, body: bytes) -> bytes:
    length = _HEADER.size + len(body)
    header = _HEADER.pack(signature, length, revision, 0, _OEM, _OEM_TABLE, 1, _CREATOR, 1)
    data = bytearray(header + body)
    data[_HEADER_CHECKSUM] = _compute_checksum(data)
    return bytes(data)


def _compute_checksum(data: bytearray) -> int:
    """Return the byte for which the sum of ``data``, with 0 in its place, is a multiple of 256."""
    return -sum(data) & 0xFF


def _build_fadt(board: AcpiBoard, dsdt: int) -> bytes:
    data = bytearray(_FADT_SIZE)
    boot_flags = _NO_VGA | (0 if board.rtc else _NO_CMOS_RTC)
    flags = _WBINVD | _PROC_C1 | _PWR_BUTTON | _SLP_BUTTON | _FIX_RTC | _HEADLESS | _HW_REDUCED
    struct.pack_into("<H", data, _FADT_BOOT_FLAGS, boot_flags)
    struct.pack_into("<I", data, _FADT_FLAGS, flags)
    struct.pack_into("<B", data, _FADT_MINOR, _FADT_MINOR_REVISION)
    struct.pack_into("<Q", data, _FADT_DSDT, dsdt)
    return _build_table(b"FACP", _FADT_REVISION, bytes(data[_HEADER.size :]))


def _build_madt(board: AcpiBoard) -> bytes:
    """Return the table with a local APIC for each vCPU, by number, and the IOAPIC of all lines.

    Without ISA interrupts, no overrides of them are needed.
    """
    entries = [_MADT.pack(board.local_apic, 0)]
    for number in range(board.cpus):
        entries.append(_LOCAL_APIC.pack(0, _LOCAL_APIC.size, number, number, _ENABLED))
    entries.append(_IO_APIC.pack(1, _IO_APIC.size, 0, board.io_apic, 0))
    return _build_table(b"APIC", _MADT_REVISION, b"".join(entries))


def _build_devices(board: AcpiBoard) -> bytes:
    """Return the body of the DSDT.

    Interrupts are in extended descriptors, which Linux takes as they are. For ISA descriptors Linux
    would look the attributes up elsewhere.
    """
    devices = [
        _build_device(
            f"COM{number}",
            aml.eisa_id("PNP0501"),
            number,
            aml.io_ports(serial.port, _SERIAL_PORTS),
            aml.interrupt(serial.irq),
        )
        for number, serial in enumerate(board.serials, 1)
    ]
    if board.rtc:
        ports = aml.io_ports(_RTC_PORT, _RTC_PORTS)
        devices.append(
            _build_device("RTC", aml.eisa_id("PNP0B00"), 0, ports, aml.interrupt(_RTC_LINE))
        )
    devices += [
        _build_device(
            f"V{number:03X}",
            aml.string("LNRO0005"),
            number,
            aml.memory(virtio.address, virtio.size),
            aml.interrupt(virtio.gsi),
        )
        for number, virtio in enumerate(board.virtio)
    ]
    return aml.scope("_SB", *devices)


def _build_device(name: str, hardware_id: bytes, number: int, *resources: bytes) -> bytes:
    return aml.device(
        name,
        aml.name("_HID", hardware_id),
        aml.name("_UID", aml.integer(number)),
        aml.name("_CRS", aml.resources(*resources)),
    )
