"""Kernels, and all that is none, as files that a caller may name."""

from __future__ import annotations

import lzma
import os
import re
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway import InputError
from slipway.vmm.arch.x86_64.kernel import (
    MAX_PROGRAM_HEADERS,
    KernelImage,
    check_kernel,
    open_kernel,
)
from slipway_initramfs.debian.kernel import write_sparse
from unit.initramfs.debian.test_kernel import PACKERS, vmlinuz

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway._run.assets import Assets

TEXT, DATA = b"text" * 1000, b"data" * 300
KERNEL_MAP = 0xFFFF_FFFF_8000_0000
ENTRY = 0x100_0000
ELF64, EXECUTABLE, X86_64 = b"\x7fELF\2\1\1", 2, 62
LOAD, NOTE = 1, 4


def header(
    address: int,
    data: bytes | int,
    *,
    offset: int = 0x1000,
    memory: int | None = None,
    virtual: int = KERNEL_MAP,
    kind: int = LOAD,
) -> tuple[int, ...]:
    """A program header: type, flags, offset, both addresses, both sizes, alignment."""
    size = data if isinstance(data, int) else len(data)
    memory = size if memory is None else memory
    return kind, 7, offset, virtual + address & 2**64 - 1, address, size, memory, 0x1000


TWO = (
    header(0x200_0000, DATA, offset=0x2000, memory=0x8000),
    header(ENTRY, TEXT),
    header(0, b"a note", kind=NOTE),
)


def elf(
    headers: Sequence[tuple[int, ...]] = TWO,
    *,
    entry: int = ENTRY,
    ident: bytes = ELF64,
    kind: int = EXECUTABLE,
    machine: int = X86_64,
    headers_at: int = 64,
    header_size: int = 56,
    count: int | None = None,
) -> bytes:
    """An ELF file with ``TEXT`` at 0x1000 and ``DATA`` at 0x2000."""
    count = len(headers) if count is None else count
    start = (kind, machine, 1, entry, headers_at, 0, 0, 64, header_size, count, 0, 0, 0)
    data = struct.pack("<16sHHIQQQIHHHHHH", ident, *start)
    data += b"".join(struct.pack("<IIQQQQQQ", *each) for each in headers)
    return data.ljust(0x1000, b"\0") + TEXT.ljust(0x1000, b"\0") + DATA


def bzimage(kernel: bytes, *, version: int = 0x20F, load_flags: int = 0x7F) -> bytes:
    data = bytearray(vmlinuz(lzma.compress(kernel, preset=0), len(kernel)))
    struct.pack_into("<H", data, 0x206, version)
    struct.pack_into("<H", data, 0x236, load_flags)
    return bytes(data)


def open_files() -> list[Path]:
    """What this process has open, by names below /proc."""
    return sorted(fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vmlinux"


def write_and_open(file: Path, data: bytes) -> KernelImage:
    file.write_bytes(data)
    return open_kernel(file)


def error_of(file: Path, data: bytes) -> InputError:
    before = open_files()
    with pytest.raises(InputError) as caught:
        write_and_open(file, data)
    assert open_files() == before
    assert str(file) in caught.value.message
    return caught.value


def contents(image: KernelImage) -> dict[int, bytes]:
    loaded = {}
    for segment in image.segments:
        memory = bytearray(segment.memory_size)
        image.read_segment_into(segment, memoryview(memory))
        loaded[segment.address] = bytes(memory)
    return loaded


# --- Kernels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["vmlinux", "bzImage"])
def test_segments_are_those_that_the_program_headers_load(file: Path, packed: bool) -> None:
    with write_and_open(file, bzimage(elf()) if packed else elf()) as image:
        assert image.entry == ENTRY
        assert image.end == 0x200_8000
        assert contents(image) == {ENTRY: TEXT, 0x200_0000: DATA.ljust(0x8000, b"\0")}


def test_holes_of_a_sparse_file_are_zeros_and_not_read(file: Path) -> None:
    text = TEXT.ljust(0x1000, b"\0") + bytes(0x10_0000) + b"later"
    data = elf((header(ENTRY, text, offset=0x1000),))[:0x1000] + text
    marked = bytearray(len(text))
    marked[0x8000:0x8004] = b"mark"  # where the hole is: what reads it would overwrite it
    with file.open("wb") as output:
        write_sparse(data, output)

    with open_kernel(file) as image:
        (segment,) = image.segments
        image.read_segment_into(segment, memoryview(marked))

    assert marked.startswith(TEXT)
    assert marked[0x8000:0x8004] == b"mark"
    assert marked.endswith(b"later")


@pytest.mark.parametrize("form", PACKERS)
def test_every_form_of_a_boot_image_is_unpacked(file: Path, form: str) -> None:
    kernel = elf()

    with write_and_open(file, vmlinuz(PACKERS[form](kernel), len(kernel))) as image:
        assert contents(image)[ENTRY] == TEXT


def test_boot_image_too_old_to_say_that_it_has_64_bits_is_unpacked(file: Path) -> None:
    with write_and_open(file, bzimage(elf(), version=0x20B, load_flags=0)) as image:
        assert image.entry == ENTRY


def test_opening_reads_headers_only(file: Path) -> None:
    file.write_bytes(elf([header(ENTRY, 1 << 30)]))
    os.truncate(file, 2 << 30)  # sparse
    tracemalloc.start()
    try:
        open_kernel(file).close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 65_536


def test_kernel_of_the_store_is_one(bash: Assets) -> None:
    with open_kernel(bash.kernel_path) as image:
        assert image.entry == image.segments[0].address == ENTRY
        image.check_fits(128 << 20)


def test_kernel_has_to_fit_into_memory(file: Path) -> None:
    with write_and_open(file, elf()) as image:
        image.check_fits(image.end)
        with pytest.raises(
            InputError, match=r"up to 33 MiB, and the machine has 32 MiB$"
        ) as caught:
            image.check_fits(image.end - 0x8000)

    assert "at least 33 MiB" in caught.value.hint


# --- Files ----------------------------------------------------------------------------------------


def test_file_that_becomes_shorter_is_an_error_when_it_is_read(file: Path) -> None:
    with write_and_open(file, elf()) as image:
        os.truncate(file, 0x1800)

        with pytest.raises(InputError, match="became shorter"):
            contents(image)


def test_replaced_file_is_read_as_it_was(file: Path) -> None:
    with write_and_open(file, elf()) as image:
        (file.parent / "new").write_bytes(b"another")
        (file.parent / "new").replace(file)

        assert contents(image)[ENTRY] == TEXT


def test_file_is_not_inherited_and_closed_once(file: Path) -> None:
    before = open_files()
    image = write_and_open(file, elf())
    (own,) = (fd for fd in open_files() if fd not in before)

    assert own.readlink() == file
    assert not os.get_inheritable(int(own.name))
    image.close()
    image.close()
    assert open_files() == before


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, reason in {
        tmp_path: "is a directory",
        tmp_path / "fifo": "is not a regular file",
        Path("/dev/zero"): "is not a regular file",
        tmp_path / "none": "no such file",
        tmp_path / "fifo" / "in": "Not a directory",
        tmp_path / ("x" * 300): "File name too long",
        tmp_path / "a\0b": "null byte",
    }.items():
        with pytest.raises(InputError, match=reason) as caught:
            open_kernel(path)
        assert caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_an_error(file: Path) -> None:
    file.touch(mode=0)

    with pytest.raises(InputError, match="Permission denied"):
        open_kernel(file)


# --- No kernels -----------------------------------------------------------------------------------

OTHER = {
    "empty": (b"", "is empty"),
    "text": (b"#!/bin/sh\necho hello\n" * 50, "is a text file"),
    "arm64": (bytes(0x38) + b"ARM\x64" + bytes(600), "is a kernel for aarch64"),
    "anything": (b"\x1f\x8b\x08\0" * 200, "begins with 1f 8b 08 00 1f 8b 08 00$"),
    "i386": (elf(ident=b"\x7fELF\1\1\1", machine=3), "is a 32-bit ELF file"),
    "x32": (elf(ident=b"\x7fELF\1\1\1"), "is a 32-bit ELF file"),
    "s390": (elf(ident=b"\x7fELF\2\2\1"), "is a big-endian ELF file"),
    "aarch64": (elf(machine=183), "for aarch64, not x86-64"),
    "unknown": (elf(machine=999), "for machine number 999, not x86-64"),
    "shared": (elf(kind=3), "is a shared library or program, not a kernel"),
    "object": (elf(kind=1), "is an object file, not a kernel"),
    "type": (elf(kind=77), "is an ELF file of type 77, not a kernel"),
    "program": (
        elf([header(0x40_0000, TEXT, virtual=0)], entry=0x40_0000),
        "is a program for user space",
    ),
    "nothing": (elf([header(ENTRY, 0), header(ENTRY, TEXT, kind=NOTE)]), "nothing to load"),
    "without 64 bits": (bzimage(elf(), load_flags=0x7E), "without a 64-bit entry"),
    "old": (bzimage(elf(), version=0x207), "older than 2.08"),
    "packed otherwise": (
        vmlinuz(b"\x89LZO" * 9, 99),
        "payload has an unknown compression: 894c5a4f",
    ),
    "another size": (
        vmlinuz(lzma.compress(elf()), len(elf()) + 1),
        "not an ELF file of the stated size",
    ),
    "too large": (vmlinuz(lzma.compress(elf()), 3 << 30), "claims to unpack to 3072 MiB"),
    "no kernel inside": (bzimage(elf(machine=183)), "for aarch64, not x86-64"),
}
DAMAGED = {
    "payload": (bzimage(elf())[:2200], "payload ends at byte [0-9]+, and the file at byte 2200"),
    "ELF header": (elf()[:63], "ends at byte 63, within its ELF header"),
    "class": (elf(ident=b"\x7fELF\7\1\1"), "class and encoding 07 01"),
    "program headers": (elf()[:231], "program headers end at byte 232, and it at 231"),
    "far headers": (elf(headers_at=2**64 - 1), "program headers end at byte"),
    "many headers": (elf(count=MAX_PROGRAM_HEADERS + 1), "65 program headers of 56 bytes"),
    "size of headers": (elf(header_size=32), "3 program headers of 32 bytes"),
    "segment": (elf()[:-1], "0x2000000 ends at byte 9392, and the file at byte 9391"),
    "far segment": (elf([header(ENTRY, TEXT, offset=2**64 - 1)]), "and the file at byte"),
    "more than memory": (elf([header(ENTRY, TEXT, memory=9)]), "more bytes in the file than in"),
    "low": (elf([header(0x8000, TEXT)], entry=0x8000), "0x8000 begins below 0x100000"),
    "high": (elf([header(2**32 - 9, 9, memory=10, virtual=1 << 63)]), "ends above 4 GiB"),
    "overlap": (
        elf([header(ENTRY, TEXT, memory=0x2001), header(ENTRY + 0x2000, DATA)]),
        "0x1002000 overlaps the one before it",
    ),
    "twice": (elf([header(ENTRY, TEXT), header(ENTRY, TEXT)]), "overlaps"),
    "entry": (elf(entry=ENTRY - 1), "entry 0xffffff is in none of its segments"),
    "virtual entry": (elf(entry=KERNEL_MAP + ENTRY), "is in none"),
    "entry in zeros": (elf(entry=0x200_0000 + len(DATA)), "is in none"),
}


@pytest.mark.parametrize(("data", "reason"), OTHER.values(), ids=OTHER)
def test_what_is_something_else_is_named(file: Path, data: bytes, reason: str) -> None:
    error = error_of(file, data)

    assert re.search(reason, error.message)
    assert "x86-64" in error.hint


@pytest.mark.parametrize(("data", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_named(file: Path, data: bytes, reason: str) -> None:
    error = error_of(file, data)

    assert "cut short or damaged" in error.message
    assert re.search(reason, error.message)
    assert "again" in error.hint


def test_program_of_this_host_is_no_kernel() -> None:
    with pytest.raises(InputError, match=r"not a kernel|not x86-64"):
        open_kernel(Path(sys.executable).resolve())


# --- For any hypervisor ---------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["vmlinux", "bzImage"])
def test_check_takes_a_whole_kernel_and_refuses_each_part_of_it(file: Path, packed: bool) -> None:
    data = bzimage(elf()) if packed else elf()
    before = open_files()
    file.write_bytes(data)

    check_kernel(file)

    # Zeros behind the payload of a bzImage are nobody's.
    for length in range(0, len(data.rstrip(b"\0")), 59):
        file.write_bytes(data[:length])
        with pytest.raises(InputError):
            check_kernel(file)
    assert open_files() == before


def test_check_does_not_unpack(file: Path) -> None:
    file.write_bytes(vmlinuz(b"\x89LZO" * 9, 99))

    check_kernel(file)
