"""Kernel for aarch64: the ``Image`` of Linux, not compressed.

Sources: Linux, Documentation/arm64/booting.rst, section 4. An Image is a program for UEFI as well,
whose section headers say how long the file is (Microsoft's PE format specification, sections
"COFF File Header" and "Section Table").
"""

from __future__ import annotations

import struct

from slipway._util.errors import InputError
from slipway._util.units import MIB, format_mib
from slipway.vmm.arch.aarch64 import layout
from slipway.vmm.files import KernelFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Self

    from slipway.vmm.memory import GuestMemory

_WANTED = "Name an Image of Linux for aarch64, not compressed."
_AGAIN = "Copy or build it again."

# code0, code1, text_offset, image_size, flags, three reserved fields, magic, offset of the PE
# header.
_HEADER = struct.Struct("<II3Q24x4sI")
_MAGIC = b"ARM\x64"
_BIG_ENDIAN, _ANYWHERE = 1 << 0, 1 << 3
_PAGE_SIZES = {0: "an unknown size", 1: "4 KiB", 2: "16 KiB", 3: "64 KiB"}
_MAX_TEXT_OFFSET = 2 * MIB

# Offsets in a PE header: number of sections, size of the header between this one and theirs.
_PE_MAGIC = b"PE\0\0"
_PE_HEADER = struct.Struct("<4s2xH12xH2x")
# SizeOfRawData and PointerToRawData of a section.
_PE_SECTION = struct.Struct("<16xII16x")
_MAX_SECTIONS = 96

_X86_SETUP_MAGIC = 0x202
_ELF_MACHINE = 18
_ELF_MACHINES = {3: "32-bit x86", 40: "arm", 62: "x86-64", 243: "riscv"}
_AARCH64 = 183
_HEAD = 0x250


class ArmKernel:
    """Kernel in an open file: where its bytes go, and the end of the memory that it takes."""

    __slots__ = ("_file", "address", "end", "size")

    def __init__(self, file: KernelFile, text_offset: int, image_size: int) -> None:
        self._file = file
        self.address = layout.KERNEL_BASE + text_offset
        self.end = self.address + image_size
        self.size = file.size

    def check_fits(self, limit: int) -> None:
        """Check that the kernel fits below the address ``limit``.

        Raises:
            InputError: the memory is too small.
        """
        if self.end > limit:
            needed = format_mib(-(-(self.end - layout.RAM) // MIB) * MIB)
            has = format_mib(limit - layout.RAM)
            raise InputError(
                f"{self._file.path} takes memory up to {needed}, and the machine has {has}",
                f"Give the machine at least {needed}.",
            )

    @property
    def entry(self) -> int:
        """The address of the first instruction."""
        return self.address

    def load_into(self, memory: GuestMemory) -> None:
        """Read the file to its place in ``memory``, which is zeros.

        Raises:
            InputError: the file has become shorter, or cannot be read.
        """
        self._file.read_into(memory.view(self.address, self.size), 0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_kernel(path: str | os.PathLike[str]) -> ArmKernel:
    """Open the kernel in the file ``path``, which the result then keeps open.

    Raises:
        InputError: the file cannot be read, or is not a kernel that can be loaded.
    """
    file = KernelFile(path, _WANTED)
    try:
        return _parse(file)
    except BaseException:  # an interruption as well leaves no descriptor
        file.close()
        raise


def check_kernel(path: str | os.PathLike[str]) -> None:
    """Check that the file ``path`` is a whole kernel, for whatever machine of this architecture.

    Raises:
        InputError: the file cannot be read, is no kernel, or is cut short or damaged.
    """
    file = KernelFile(path, _WANTED)
    try:
        _read_header(file)
    finally:
        file.close()


def _parse(file: KernelFile) -> ArmKernel:
    text_offset, image_size, flags = _read_header(file)
    page = flags >> 1 & 3
    if page > 1:
        raise InputError(
            f"{file.path} is a kernel with pages of {_PAGE_SIZES[page]}; 4 KiB are supported",
            _WANTED,
        )
    if not flags & _ANYWHERE or not image_size:
        raise InputError(
            f"{file.path} is a kernel that has to lie at the start of the memory",
            "Name a kernel of Linux 4.6 or later.",
        )
    return ArmKernel(file, text_offset, image_size)


def _read_header(file: KernelFile) -> tuple[int, int, int]:
    """Return text_offset, image_size and flags of a whole little-endian Image.

    The image_size is 0 before Linux 3.17.

    Raises:
        InputError: the file is something else, or is cut short or damaged.
    """
    head = _read(file, 0, _HEAD)
    if len(head) < _HEADER.size or head[56:60] != _MAGIC:
        raise InputError(f"{file.path} {_describe_content(head)}", _WANTED)
    text_offset: int
    image_size: int
    flags: int
    _, _, text_offset, image_size, flags, _, pe_offset = _HEADER.unpack_from(head)
    if flags & _BIG_ENDIAN:
        raise InputError(f"{file.path} is a big-endian kernel", _WANTED)
    if text_offset % layout.PAGE or text_offset >= _MAX_TEXT_OFFSET:
        raise InputError(
            f"{file.path} is damaged: its text_offset is {text_offset:#x};"
            " it has to be less than 2 MiB and whole pages",
            _AGAIN,
        )
    if 0 < image_size < file.size:
        raise InputError(
            f"{file.path} is damaged: it has {file.size} bytes, and by its header at most"
            f" {image_size}",
            _AGAIN,
        )
    end = _find_end(file, pe_offset)
    if file.size < end:
        raise InputError(
            f"{file.path} is cut short: it has {file.size} bytes, and its sections {end}", _AGAIN
        )
    return text_offset, image_size, flags


def _read(file: KernelFile, offset: int, size: int) -> bytes:
    """Return up to ``size`` bytes at ``offset``; fewer at the end of the file."""
    data = bytearray(max(0, min(size, file.size - offset)))
    file.read_into(data, offset)
    return bytes(data)


def _find_end(file: KernelFile, offset: int) -> int:
    """Return where the last section ends in the file; its size if it is no program for UEFI."""
    header = _read(file, offset, _PE_HEADER.size)
    if len(header) < _PE_HEADER.size:
        return offset + _PE_HEADER.size
    sections: int
    size: int
    magic, sections, size = _PE_HEADER.unpack(header)
    if not offset or magic != _PE_MAGIC:
        return file.size
    start = offset + _PE_HEADER.size + size
    table_size = sections * _PE_SECTION.size
    if sections > _MAX_SECTIONS or start + table_size > file.size:
        return start + table_size
    table = _read(file, start, table_size)
    ends: list[int] = [size + at for size, at in _PE_SECTION.iter_unpack(table)]
    return max(ends, default=file.size)


def _describe_content(head: bytes) -> str:
    """Describe a file that begins with ``head`` and is no Image."""
    if not head:
        return "is empty"
    if head.startswith(b"\x7fELF"):
        (machine,) = struct.unpack_from("<H", head.ljust(20, b"\0"), _ELF_MACHINE)
        if machine == _AARCH64:
            return "is an ELF file; of a kernel for aarch64, the Image is needed"
        name = _ELF_MACHINES.get(machine, f"machine number {machine}")
        return f"is an ELF file for {name}, not aarch64"
    if head[_X86_SETUP_MAGIC : _X86_SETUP_MAGIC + 4] == b"HdrS":
        return "is a kernel for x86"
    if head.startswith(b"\x1f\x8b") or head[4:8] == b"zimg":
        return "is compressed"
    if all(byte >= 0x20 or byte in b"\t\n\f\r\x1b" for byte in head):
        return "is a text file"
    return f"is no Image: it begins with {head[:8].hex(' ')}"
