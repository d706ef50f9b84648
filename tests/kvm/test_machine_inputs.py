"""Kernels, archives and memory that no machine can be made of: each is told, and nothing stays."""

from __future__ import annotations

import asyncio
import os
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway import HostError, InputError, SlipwayError
from slipway.machine.kvm_hypervisor import KvmHypervisor
from support.bare_metal import open_files
from support.guest_code import CODE, COM1, IS_ARM, KERNEL_END, RAM, Code, build_kernel
from support.machine_code import Code as X86Code
from support.machine_code import vmlinux

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kvm.conftest import Boot
    from slipway.machine.model import MachineSpec

MIB = 1 << 20
KERNEL = build_kernel(Code().halt())

pytestmark = pytest.mark.usefixtures("trust_kvm")


def elf_32(kernel: bytes) -> bytes:
    return kernel[:4] + b"\1" + kernel[5:]


def for_arm(kernel: bytes) -> bytes:
    return kernel[:18] + struct.pack("<H", 183) + kernel[20:]


def at(address: int, memory_size: int = 0x1000) -> Callable[[bytes], bytes]:
    return lambda _: vmlinux(X86Code(address).halt(), address=address, memory_size=memory_size)


def change_field(offset: int, value: int) -> Callable[[bytes], bytes]:
    """Change 8 bytes of an Image's header (Documentation/arm64/booting.rst, section 4)."""
    return lambda kernel: kernel[:offset] + struct.pack("<Q", value) + kernel[offset + 8 :]


async def expect_refusal(spec: MachineSpec, kind: type[SlipwayError]) -> SlipwayError:
    """The error that a start ends with; checks that it leaves neither process nor descriptor."""
    await asyncio.sleep(0)  # what was closed before is gone after a turn of the loop
    before = open_files()

    with pytest.raises(SlipwayError) as caught:
        await KvmHypervisor().start(spec)

    assert type(caught.value) is kind
    assert open_files() == before
    assert psutil.Process().children() == []
    return caught.value


# A change of the kernel of these tests, what is said of it, and a part of the hint.
X86_KERNELS = [
    (lambda _: b"", "is empty", "vmlinux or bzImage"),
    (lambda _: b"#!/bin/sh\n", "is a text file", "vmlinux or bzImage"),
    (lambda _: bytes(range(256)) * 4, "neither an ELF file nor a bzImage", "vmlinux"),
    (elf_32, "32-bit ELF file", "vmlinux or bzImage"),
    (for_arm, "an ELF file for aarch64", "vmlinux or bzImage"),
    (lambda kernel: kernel[:100], "cut short or damaged", "build it again"),
    (lambda kernel: kernel[:0x1001], "cut short or damaged", "build it again"),
    (at(0x8_0000), "begins below 0x100000", "build it again"),
    (at(1 << 40), "above 4 GiB", "build it again"),
    (at(63 * MIB, 2 * MIB), "takes memory up to 65 MiB", "at least 65 MiB"),
    (at(CODE, 1 << 31), "takes memory up to 2049 MiB", "at least 2049 MiB"),
]
ARM_KERNELS = [
    (lambda _: b"", "is empty", "Image of Linux for aarch64"),
    (lambda _: b"#!/bin/sh\n", "is a text file", "Image of Linux for aarch64"),
    (lambda _: bytes(range(256)) * 4, "is no Image", "Image of Linux for aarch64"),
    (at(0x10_0000), "an ELF file for x86-64, not aarch64", "Image of Linux for aarch64"),
    (lambda _: bytes(0x202) + b"HdrS" + bytes(600), "for x86", "Image of Linux for aarch64"),
    (lambda _: b"\x1f\x8b\x08" + bytes(range(1, 200)), "is compressed", "not compressed"),
    (lambda kernel: kernel[:60], "is no Image", "Image of Linux for aarch64"),
    (change_field(8, 0x800), "its text_offset is 0x800", "build it again"),
    (change_field(24, 1 << 3 | 3 << 1), "pages of 64 KiB; 4 KiB are supported", "Image"),
    (change_field(24, 1 << 1), "has to lie at the start of the memory", "Linux 4.6 or later"),
    (change_field(16, 1 << 27), "takes memory up to 130 MiB", "at least 130 MiB"),
]


@pytest.mark.parametrize(
    ("change", "reason", "hint"),
    ARM_KERNELS if IS_ARM else X86_KERNELS,
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
async def test_kernel_that_is_none(
    spec: MachineSpec, change: Callable[[bytes], bytes], reason: str, hint: str
) -> None:
    spec.kernel.write_bytes(change(KERNEL))

    error = await expect_refusal(spec, InputError)

    assert reason in error.message
    assert hint in error.hint


async def test_kernel_that_is_not_there(spec: MachineSpec, tmp_path: Path) -> None:
    error = await expect_refusal(replace(spec, kernel=tmp_path / "none"), InputError)

    assert error.message == f"kernel {tmp_path / 'none'}: no such file"
    assert error.hint


async def test_kernel_that_is_a_directory(spec: MachineSpec, tmp_path: Path) -> None:
    error = await expect_refusal(replace(spec, kernel=tmp_path), InputError)

    assert "is a directory" in error.message


async def test_kernel_whose_name_is_strange_is_named(spec: MachineSpec, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff=\xc3\xa9\t")

    error = await expect_refusal(replace(spec, kernel=tmp_path / name), InputError)

    assert error.message.startswith(f"kernel {tmp_path}")
    assert error.message.isprintable()


async def test_initramfs_that_is_not_there(spec: MachineSpec, tmp_path: Path) -> None:
    spec.kernel.write_bytes(KERNEL)

    error = await expect_refusal(replace(spec, initrd=tmp_path / "none"), HostError)

    assert error.message == f"cannot open {tmp_path / 'none'}: No such file or directory"


async def test_initramfs_that_is_a_directory(spec: MachineSpec, tmp_path: Path) -> None:
    spec.kernel.write_bytes(KERNEL)

    error = await expect_refusal(replace(spec, initrd=tmp_path), HostError)

    assert error.message == f"{tmp_path} is not a file"


async def test_initramfs_that_is_a_fifo_is_not_waited_for(
    spec: MachineSpec, tmp_path: Path
) -> None:
    spec.kernel.write_bytes(KERNEL)
    os.mkfifo(tmp_path / "fifo")

    async with asyncio.timeout(30):
        error = await expect_refusal(replace(spec, initrd=tmp_path / "fifo"), HostError)

    assert error.message == f"{tmp_path / 'fifo'} is not a file"


async def test_initramfs_that_is_larger_than_the_memory(spec: MachineSpec) -> None:
    spec.kernel.write_bytes(KERNEL)
    with spec.initrd.open("wb") as file:
        file.truncate(100 * MIB)

    error = await expect_refusal(spec, InputError)

    assert "MiB of memory" in error.message
    assert "--memory" in error.hint


async def test_initramfs_of_just_the_room_there_is(boot: Boot, spec: MachineSpec) -> None:
    room = RAM + spec.memory_bytes - KERNEL_END
    with spec.initrd.open("wb") as file:
        file.truncate(room)
    machine = await boot(Code().text(COM1, b"booted").reset())
    assert await machine.wait() == 0
    await machine.stop()

    with spec.initrd.open("wb") as file:
        file.truncate(room + 1)
    await expect_refusal(spec, InputError)


@pytest.mark.parametrize("length", [2048, 60_000, 100_000, 1_000_000])
async def test_command_line_that_is_too_long(spec: MachineSpec, length: int) -> None:
    spec.kernel.write_bytes(KERNEL)

    error = await expect_refusal(replace(spec, kernel_arguments="x" * length), InputError)

    assert error.message.startswith("the kernel's command line ")


@pytest.mark.parametrize("arguments", ["caf\xe9", os.fsdecode(b"\xff"), "\ud800", "nul\0"])
async def test_command_line_of_any_characters_boots(boot: Boot, arguments: str) -> None:
    machine = await boot(Code().reset(), kernel_arguments=arguments)

    assert await machine.wait() == 0


@pytest.mark.parametrize("size", [0, 0x1000, 0xA_0000, MIB, MIB + 1, 64 * MIB + 1])
async def test_memory_that_is_too_small_or_no_whole_pages(spec: MachineSpec, size: int) -> None:
    spec.kernel.write_bytes(KERNEL)
    with pytest.raises(SlipwayError) as caught:
        await KvmHypervisor().start(replace(spec, memory_bytes=size))

    assert caught.value.hint
    assert "Traceback" not in caught.value.message


async def test_machine_starts_after_one_that_was_refused(boot: Boot, spec: MachineSpec) -> None:
    for _ in range(5):
        spec.kernel.write_bytes(KERNEL)
        await expect_refusal(replace(spec, initrd=spec.kernel.parent / "none"), HostError)

        machine = await boot(Code().text(COM1, b"booted").reset())

        assert await machine.wait() == 0
        await machine.console.wait_drained()
        assert machine.console.get_last_lines() == ["booted"]
        await machine.stop()
