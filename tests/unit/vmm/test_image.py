"""Kernels of aarch64, and all that is none, as files that a caller may name."""

from __future__ import annotations

import os
import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from slipway import InputError
from slipway.vmm.arch.aarch64 import architecture, layout
from slipway.vmm.arch.aarch64.architecture import place_memory, write_tables
from slipway.vmm.arch.aarch64.kernel import check_kernel, open_kernel
from slipway.vmm.loader import load_files
from slipway.vmm.memory import GuestMemory
from slipway.vmm.spec import BootSpec, Plan
from support.device_trees import read_device_tree

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
PAGES_4K, PAGES_16K, PAGES_64K = 1 << 1, 2 << 1, 3 << 1
BIG_ENDIAN, ANYWHERE = 1 << 0, 1 << 3
SECTIONS_AT = 0x40
TEXT = b"text" * 1024
PLAN = Plan("quiet", 1, serials=1, virtio=1)


def image(
    *,
    text_offset: int = 0,
    image_size: int = MIB,
    flags: int = ANYWHERE | PAGES_4K,
    data: bytes = TEXT,
    sections: int = 1,
    is_program: bool = True,
) -> bytes:
    """An Image whose only section is ``data``, as a program for UEFI or without that header."""
    pe = b""
    if is_program:
        pe = struct.pack("<4s2xH12xH2x", b"PE\0\0", sections, 16) + bytes(16)
        pe += struct.pack("<16xII16x", len(data), 0x1000) * sections
    offset = SECTIONS_AT if is_program else 0
    header = struct.pack("<II3Q24x4sI", 0, 0, text_offset, image_size, flags, b"ARM\x64", offset)
    return (header + pe).ljust(0x1000, b"\0") + data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "Image"


def count_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (without an open directory of its own)


@pytest.mark.parametrize("is_program", [True, False])
@pytest.mark.parametrize("text_offset", [0, 0x8_0000])
def test_kernel_lies_at_its_offset_behind_the_device_tree(
    file: Path, text_offset: int, is_program: bool
) -> None:
    data = image(text_offset=text_offset, is_program=is_program)
    file.write_bytes(data)

    with (
        closing(GuestMemory(place_memory(32 * MIB))) as memory,
    ):
        entry, _ = load_files(architecture, memory, BootSpec(str(file), [], ""))

        assert entry == layout.KERNEL_BASE + text_offset
        assert memory.read(entry, len(data)) == data


def test_initramfs_and_device_tree_lie_outside_of_the_kernel(file: Path, tmp_path: Path) -> None:
    file.write_bytes(image(image_size=8 * MIB))
    archive = tmp_path / "initramfs"
    archive.write_bytes(b"archive" * 1000)

    with closing(GuestMemory(place_memory(32 * MIB))) as memory:
        spec = BootSpec(str(file), [str(archive)], "")
        entry, initramfs = load_files(architecture, memory, spec)
        write_tables(memory, PLAN, initramfs)

        blob = memory.read(layout.DEVICE_TREE, layout.DEVICE_TREE_SIZE)
        chosen = read_device_tree(blob[: int.from_bytes(blob[4:8], "big")]).children["chosen"]
        (start,) = chosen.read_pairs("linux,initrd-start")
        assert memory.read(start, 7000) == b"archive" * 1000
        assert start >= entry + 8 * MIB
        assert entry >= layout.DEVICE_TREE + layout.DEVICE_TREE_SIZE


def test_each_boot_has_a_seed_of_its_own() -> None:
    with closing(GuestMemory(place_memory(32 * MIB))) as memory:
        write_tables(memory, PLAN, (0, 0))
        first = memory.read(layout.DEVICE_TREE, 4096)
        write_tables(memory, PLAN, (0, 0))

        assert memory.read(layout.DEVICE_TREE, 4096) != first


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"#!/bin/sh\necho hello\n" * 40, "is a text file"),
        (bytes(600), "is no Image: it begins with 00 00"),
        (b"\x7fELF\2\1\1" + bytes(11) + b"\x3e\0" + bytes(600), "is an ELF file for x86-64"),
        (b"\x7fELF\2\1\1" + bytes(11) + b"\xb7\0" + bytes(600), "the Image is needed"),
        (b"\x7fELF", "is an ELF file for machine number 0"),
        (bytes(0x202) + b"HdrS" + bytes(600), "is a kernel for x86"),
        (b"\x1f\x8b\x08" + bytes(range(1, 200)), "is compressed"),
        (b"MZ\0\0zimg" + bytes(600), "is compressed"),
        (image()[:59], "is no Image"),
        (image(flags=ANYWHERE | PAGES_4K | BIG_ENDIAN), "is a big-endian kernel"),
        (image(flags=ANYWHERE | PAGES_16K), "pages of 16 KiB; 4 KiB are supported"),
        (image(flags=ANYWHERE | PAGES_64K), "pages of 64 KiB; 4 KiB are supported"),
        (image(flags=PAGES_4K), "has to lie at the start of the memory"),
        (image(image_size=0), "has to lie at the start of the memory"),
        (image(text_offset=2 * MIB), "its text_offset is 0x200000"),
        (image(text_offset=0x800), "its text_offset is 0x800"),
        (image(image_size=0x1800), "by its header at most 6144"),
        (image()[:-1], "is cut short: it has 8191 bytes, and its sections 8192"),
        (image()[:0x90], "is cut short"),
        (image(sections=0xFFFF)[:0x2000], "is cut short"),
        (image()[:0x50], "is cut short"),
    ],
)
def test_file_that_cannot_be_booted_is_named_with_its_kind(
    file: Path, data: bytes, words: str
) -> None:
    file.write_bytes(data)
    before = count_open_files()

    with pytest.raises(InputError) as caught:
        open_kernel(file)

    assert words in caught.value.message
    assert str(file) in caught.value.message
    assert count_open_files() == before


def test_any_part_of_a_kernel_is_refused_or_opened(file: Path) -> None:
    data = image()

    for length in range(0, len(data), 7):
        file.write_bytes(data[:length])
        with pytest.raises(InputError):
            open_kernel(file)


@pytest.mark.parametrize(
    "data",
    [
        image(),
        image(flags=ANYWHERE | PAGES_64K),
        image(flags=PAGES_4K),
        image(image_size=0, is_program=False),
    ],
)
def test_check_for_any_hypervisor_takes_what_others_can_boot(file: Path, data: bytes) -> None:
    before = count_open_files()
    file.write_bytes(data)

    check_kernel(file)

    assert count_open_files() == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x1f\x8b\x08" + bytes(range(1, 200)), "is compressed"),
        (image(flags=ANYWHERE | PAGES_4K | BIG_ENDIAN), "is a big-endian kernel"),
        (image(text_offset=0x800), "its text_offset is 0x800"),
        (image()[:-1], "is cut short"),
    ],
)
def test_check_for_any_hypervisor_refuses_what_no_other_boots(
    file: Path, data: bytes, words: str
) -> None:
    before = count_open_files()
    file.write_bytes(data)

    with pytest.raises(InputError, match=words):
        check_kernel(file)

    assert count_open_files() == before


@pytest.mark.parametrize(
    ("kernel", "memory_size", "words"),
    [
        (image(image_size=64 * MIB), 32 * MIB, "takes memory up to 66 MiB"),
        (image(image_size=30 * MIB), 32 * MIB, "kernel and initramfs need 33 MiB of memory"),
    ],
)
def test_memory_that_is_too_small_is_told_with_the_size_that_is_needed(
    file: Path, tmp_path: Path, kernel: bytes, memory_size: int, words: str
) -> None:
    file.write_bytes(kernel)
    archive = tmp_path / "initramfs"
    archive.write_bytes(b"archive")

    with (
        closing(GuestMemory(place_memory(memory_size))) as memory,
        pytest.raises(InputError) as caught,
    ):
        load_files(architecture, memory, BootSpec(str(file), [str(archive)], ""))

    assert words in caught.value.message
    assert "32 MiB" in caught.value.message


def test_command_line_that_is_too_long_is_refused() -> None:
    plan = Plan("x" * layout.COMMAND_LINE_SIZE, 1, serials=1, virtio=1)

    with (
        closing(GuestMemory(place_memory(32 * MIB))) as memory,
        pytest.raises(InputError, match="has 2048 bytes, and at most 2047 fit"),
    ):
        write_tables(memory, plan, (0, 0))


@pytest.mark.parametrize(
    ("size", "initramfs", "place"),
    [
        (64 * MIB, 5 * MIB, layout.RAM + 64 * MIB),
        (63 * MIB, 5 * MIB, layout.RAM + 64 * MIB),  # from a multiple of 2 MiB on
        ((4 << 30) - 2 * MIB, 2 * MIB, layout.INITRAMFS_END - 2 * MIB),
        ((4 << 30) - 2 * MIB, 2 * MIB + layout.PAGE, None),
    ],
)
def test_initramfs_beside_the_memory_is_near_the_kernel(
    size: int, initramfs: int, place: int | None
) -> None:
    assert architecture.find_initramfs_place(size, initramfs) == place


def test_device_tree_has_the_memory_of_an_initramfs_beside_it() -> None:
    beside = layout.RAM + 32 * MIB, 3 * layout.PAGE
    with closing(GuestMemory(place_memory(32 * MIB))) as memory:
        write_tables(memory, PLAN, beside)
        blob = memory.read(layout.DEVICE_TREE, layout.DEVICE_TREE_SIZE)

    tree = read_device_tree(blob[: int.from_bytes(blob[4:8], "big")])
    regions = tree.children[f"memory@{layout.RAM:x}"].read_pairs("reg")
    assert regions == [layout.RAM, 32 * MIB, *beside]
