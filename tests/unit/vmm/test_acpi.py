"""The tables as a guest finds them, judged by ACPICA's disassembler and compiler (iasl)."""

from __future__ import annotations

import re
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.vmm.arch.x86_64 import aml
from slipway.vmm.arch.x86_64.acpi import AcpiBoard, IsaSerial, VirtioResource, build_tables
from support.host_programs import need_program

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = 0xE0000
COM1, COM2 = IsaSerial(0x3F8, 4), IsaSerial(0x2F8, 3)
DEVICES = tuple(VirtioResource(0xD000_0000 + n * 0x1000, 0x1000, 16 + n) for n in range(3))


def board(
    cpus: int = 2,
    serials: tuple[IsaSerial, ...] = (COM1, COM2),
    virtio: tuple[VirtioResource, ...] = DEVICES,
    *,
    rtc: bool = True,
) -> AcpiBoard:
    return AcpiBoard(cpus=cpus, serials=serials, virtio=virtio, rtc=rtc)


def tables_in(blob: bytes, address: int) -> dict[str, bytes]:
    """Follow the pointers from the RSDP at ``address`` on; every checksum has to be right."""

    def table(at: int) -> bytes:
        assert at % 16 == 0
        offset = at - address
        assert 0 < offset <= len(blob) - 36
        (length,) = struct.unpack_from("<I", blob, offset + 4)
        data = blob[offset : offset + length]
        assert len(data) == length
        assert sum(data) % 256 == 0
        return data

    assert blob[:8] == b"RSD PTR "
    assert sum(blob[:20]) % 256 == sum(blob[:36]) % 256 == 0
    revision, rsdt, length, xsdt = struct.unpack_from("<xBIIQ", blob, 14)
    assert (revision, rsdt, length) == (2, 0, 36)
    root = table(xsdt)
    found = {"XSDT": root}
    for (at,) in struct.iter_unpack("<Q", root[36:]):
        entry = table(at)
        found[entry[:4].decode()] = entry
    found["DSDT"] = table(*struct.unpack_from("<Q", found["FACP"], 140))
    return found


def iasl(directory: Path, *arguments: str) -> None:
    ended = subprocess.run(
        [need_program("iasl"), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )

    output = ended.stdout + ended.stderr
    assert ended.returncode == 0, output
    assert not re.search(r"(Error|Warning|Remark) +\d|[Ii]nvalid|[Ii]ncorrect", output), output


def disassemble(directory: Path, table: bytes) -> str:
    (directory / "table.dat").write_bytes(table)
    iasl(directory, "-d", "table.dat")
    return (directory / "table.dsl").read_text()


def compile_table(directory: Path) -> bytes:
    iasl(directory, "-oa", "-p", "again", "table.dsl")  # names as they are written
    return (directory / "again.aml").read_bytes()


def fields(text: str) -> list[tuple[str, str]]:
    """Name and value of each field that the disassembler shows of a table of data."""
    return re.findall(r"^(?:\[.*?\])? +(\S.*?) : (.*)$", text, re.MULTILINE)


# --- Tables of data -------------------------------------------------------------------------------


@given(
    cpus=st.integers(1, 254),
    serials=st.lists(st.builds(IsaSerial, st.integers(0, 0xFFF8), st.integers(0, 23))),
    virtio=st.lists(
        st.builds(
            VirtioResource, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 23)
        ),
        max_size=300,
    ),
    rtc=st.booleans(),
    address=st.integers(0, 2**32).map(lambda n: n * 16),
)
def test_every_table_is_found_and_sound(
    cpus: int, serials: list[IsaSerial], virtio: list[VirtioResource], rtc: bool, address: int
) -> None:
    blob = build_tables(board(cpus, tuple(serials), tuple(virtio), rtc=rtc), address)

    assert tables_in(blob, address).keys() == {"XSDT", "FACP", "APIC", "DSDT"}


@pytest.mark.parametrize("rtc", [False, True])
@pytest.mark.debian("iasl")
def test_hardware_that_is_not_there_is_denied(tmp_path: Path, rtc: bool) -> None:
    fadt = tables_in(build_tables(board(rtc=rtc), ADDRESS), ADDRESS)["FACP"]

    shown = dict(fields(disassemble(tmp_path, fadt)))

    assert shown["Hardware Reduced (V5)"] == "1"
    assert shown["8042 Present on ports 60/64 (V2)"] == "0"
    assert shown["VGA Not Present (V4)"] == "1"
    assert shown["CMOS RTC Not Present (V5)"] == "01"[not rtc]
    for absent in ("PM Timer Block Address", "SCI Interrupt", "SMI Command Port", "FACS Address"):
        assert int(shown[absent], 16) == 0
    assert shown["Reset Register Supported (V2)"] == "0"
    assert compile_table(tmp_path)[36:] == fadt[36:]


@pytest.mark.debian("iasl")
def test_each_vcpu_has_a_local_apic_and_all_lines_are_the_ioapics(tmp_path: Path) -> None:
    madt = tables_in(build_tables(board(cpus=8), ADDRESS), ADDRESS)["APIC"]

    shown = fields(disassemble(tmp_path, madt))

    assert ("Local Apic Address", "FEE00000") in shown
    assert ("PC-AT Compatibility", "0") in shown
    assert [value for name, value in shown if name == "Subtable Type"] == [
        *["00 [Processor Local APIC]"] * 8,
        "01 [I/O APIC]",
    ]
    assert [int(value, 16) for name, value in shown if name == "Local Apic ID"] == [*range(8)]
    assert [value for name, value in shown if name == "Processor Enabled"] == ["1"] * 8
    assert shown.count(("Address", "FEC00000")) == 1
    assert shown.count(("Interrupt", "00000000")) == 1
    assert compile_table(tmp_path)[36:] == madt[36:]


@pytest.mark.debian("iasl")
def test_root_table_is_as_acpica_would_make_it(tmp_path: Path) -> None:
    xsdt = tables_in(build_tables(board(), ADDRESS), ADDRESS)["XSDT"]

    disassemble(tmp_path, xsdt)

    assert compile_table(tmp_path)[36:] == xsdt[36:]


# --- Devices --------------------------------------------------------------------------------------


@pytest.mark.debian("iasl")
def test_devices_are_as_acpica_would_describe_them(tmp_path: Path) -> None:
    dsdt = tables_in(build_tables(board(), ADDRESS), ADDRESS)["DSDT"]

    text = disassemble(tmp_path, dsdt)

    assert compile_table(tmp_path)[36:] == dsdt[36:]
    text = re.sub(r"/\*.*?\*/|//.*|\s+", "", text)
    edge = "Interrupt(ResourceConsumer,Edge,ActiveHigh,Exclusive,,,){0x%08X,}})}"
    assert '"DSDT",2,"SLIPWY","MICROVM",0x00000001){Scope(_SB){Device(COM1)' in text
    assert (
        'Device(COM1){Name(_HID,EisaId("PNP0501"))Name(_UID,One)Name(_CRS,ResourceTemplate(){'
        "IO(Decode16,0x03F8,0x03F8,0x01,0x08,)" + edge % 4
    ) in text
    assert "IO(Decode16,0x02F8,0x02F8,0x01,0x08,)" + edge % 3 in text
    assert (
        'Device(RTC){Name(_HID,EisaId("PNP0B00"))Name(_UID,Zero)Name(_CRS,ResourceTemplate(){'
        "IO(Decode16,0x0070,0x0070,0x01,0x02,)" + edge % 8
    ) in text
    assert (
        'Device(V002){Name(_HID,"LNRO0005")Name(_UID,0x02)Name(_CRS,ResourceTemplate(){'
        "Memory32Fixed(ReadWrite,0xD0002000,0x00001000,)" + edge % 18
    ) in text
    assert text.count("Device(") == 6


def test_clock_that_is_not_there_has_no_device() -> None:
    with_clock, without = (
        tables_in(build_tables(board(rtc=rtc), ADDRESS), ADDRESS)["DSDT"] for rtc in (True, False)
    )

    assert aml.eisa_id("PNP0B00") in with_clock
    assert aml.eisa_id("PNP0B00") not in without


@pytest.mark.debian("iasl")
def test_board_without_devices_is_described(tmp_path: Path) -> None:
    dsdt = tables_in(build_tables(board(1, (), (), rtc=False), ADDRESS), ADDRESS)["DSDT"]

    disassemble(tmp_path, dsdt)

    assert compile_table(tmp_path)[36:] == dsdt[36:]


# --- The assembler --------------------------------------------------------------------------------

NUMBERS = [(1 << bits) + off for bits in (1, 8, 16, 32, 63) for off in (-1, 0, 1)]


@pytest.mark.debian("iasl")
def test_terms_are_encoded_as_acpica_encodes_them(tmp_path: Path) -> None:
    terms = [
        aml.name("NUMS", aml.package(*map(aml.integer, NUMBERS))),
        aml.name("TEXT", aml.string("text")),
        aml.name(
            "NEST", aml.package(aml.package(aml.string("x")), aml.string(""), aml.buffer(b"ab"))
        ),
        # Lengths around the edges of a PkgLength's one, two and three bytes.
        *(
            aml.name(f"B{n:03}", aml.buffer(bytes(n % 251 for n in range(size))))
            for n, size in enumerate((1, 57, 58, 59, 60, 61, 4087, 4088, 4089, 4090, 4091))
        ),
        aml.device("DEV", aml.name("_HID", aml.eisa_id("ABC0007"))),
        aml.scope("\\_SB.DEV", aml.device("SUB", aml.name("_ADR", aml.integer(0)))),
        aml.scope("\\_SB.DEV.SUB", aml.name("X", aml.integer(1))),
        aml.scope("\\", aml.name("ROOT", aml.integer(2))),
    ]
    body = aml.scope("\\_SB", *terms)
    table = bytearray(b"DSDT" + struct.pack("<I", 36 + len(body)) + b"\2\0SLIPWYMICROVM ")
    table += struct.pack("<I4sI", 1, b"TEST", 1) + body
    table[9] = -sum(table) & 0xFF

    text = disassemble(tmp_path, bytes(table))

    assert compile_table(tmp_path)[36:] == body
    shown = {int(number, 16) for number in re.findall(r"0x([0-9A-F]+)", text)}
    assert shown >= {*NUMBERS} - {0, 1}


def test_plug_and_play_ids_are_those_of_the_specification() -> None:
    # Section 19.3.4 of ACPI 6.3: EISAID("PNP0C09") is the integer 0x090CD041.
    assert aml.eisa_id("PNP0C09") == b"\x0c" + (0x090C_D041).to_bytes(4, "little")
