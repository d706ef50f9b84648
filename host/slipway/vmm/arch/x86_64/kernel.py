"""Kernel for Linux's 64-bit entry: an ELF ``vmlinux``, or the ELF file packed into a bzImage.

To open an ELF file reads its headers only, since that is part of each start; a bzImage is unpacked
into this process's memory.

Sources: System V ABI, chapters 4 "Object Files" and 5 "Program Loading"; Linux,
Documentation/arch/x86/boot.rst. The ``e_entry`` of a vmlinux is physical already
(``phys_startup_64`` in arch/x86/kernel/vmlinux.lds.S), as are its ``p_paddr``.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack

from slipway._util.errors import InputError
from slipway._util.units import MIB, format_mib
from slipway.vmm.files import KernelFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Self

    from slipway.vmm.memory import GuestMemory

MAX_PROGRAM_HEADERS = 64  # a vmlinux has five
# Lower addresses belong to the boot loader and to the data of a BIOS.
LOWEST_ADDRESS, ADDRESS_LIMIT = MIB, 4 << 30

_WANTED = "Name a vmlinux or bzImage of Linux for x86-64."
_AGAIN = "Copy or build it again."

# e_ident, type, machine, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, and three
# numbers about sections.
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHH6x")
# type, flags, offset, vaddr, paddr, filesz, memsz, align
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_ELF_MAGIC = b"\x7fELF"
_CLASS_AND_DATA = slice(4, 6)
_ELF64_LITTLE_ENDIAN = b"\2\1"
_OTHER_ENCODINGS = {b"\1\1": "32-bit", b"\1\2": "32-bit big-endian", b"\2\2": "big-endian"}
_PT_LOAD, _EXECUTABLE, _X86_64 = 1, 2, 62
_OTHER_TYPES = {1: "an object file", 3: "a shared library or program", 4: "a core dump"}
_OTHER_MACHINES = {3: "32-bit x86", 40: "arm", 183: "aarch64", 243: "riscv"}
# Kernels run in the upper half of the virtual addresses, programs in the lower.
_UPPER_HALF = 1 << 63

# Offsets in a bzImage, whose boot protocol has a payload since version 2.08, and gave "xloadflags"
# its meaning in version 2.12. The setup has a first sector and those that its header counts.
_SETUP_SECTORS, _SETUP_MAGIC, _SETUP_VERSION = 0x1F1, 0x202, 0x206
_SETUP_LOAD_FLAGS, _SETUP_PAYLOAD, _SETUP_END = 0x236, 0x248, 0x250
_SECTOR, _DEFAULT_SECTORS = 512, 4
_VERSION_WITH_PAYLOAD, _VERSION_WITH_LOAD_FLAGS = 0x0208, 0x020C
_XLF_KERNEL_64 = 1 << 0
_ARM64_MAGIC = 0x38


class KernelSegment:
    """Part of the file that is loaded to the guest physical ``address``.

    The bytes of ``memory_size`` beyond ``file_size`` are zeros, like fresh memory.
    """

    __slots__ = ("address", "file_offset", "file_size", "memory_size")

    def __init__(self, file_offset: int, address: int, file_size: int, memory_size: int) -> None:
        self.file_offset = file_offset
        self.address = address
        self.file_size = file_size
        self.memory_size = memory_size

    @property
    def end(self) -> int:
        """The first address after the segment."""
        return self.address + self.memory_size


class _Unpacked:
    """ELF file of a bzImage."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_into(self, target: bytearray | memoryview, offset: int) -> None:
        rest = memoryview(target)
        rest[:] = memoryview(self._data)[offset : offset + len(rest)]

    def close(self) -> None:
        self._data = b""


_Source = KernelFile | _Unpacked


class KernelImage:
    """Segments of a kernel, in ascending order, and its physical 64-bit entry."""

    __slots__ = ("_source", "entry", "path", "segments")

    def __init__(
        self,
        path: str | os.PathLike[str],
        source: _Source,
        entry: int,
        segments: tuple[KernelSegment, ...],
    ) -> None:
        self.path = path
        self._source = source
        self.entry = entry
        self.segments = segments

    @property
    def end(self) -> int:
        """The first address after all segments."""
        return self.segments[-1].end

    def check_fits(self, limit: int) -> None:
        """Check that the kernel fits below the address ``limit``.

        Raises:
            InputError: the memory is too small.
        """
        if self.end > limit:
            needed = format_mib(-(-self.end // MIB) * MIB)
            raise InputError(
                f"{self.path} takes memory up to {needed}, and the machine has {format_mib(limit)}",
                f"Give the machine at least {needed}.",
            )

    def read_segment_into(self, segment: KernelSegment, target: memoryview) -> None:
        """Read the ``file_size`` bytes of ``segment`` to the start of ``target``, which is zeros.

        Raises:
            InputError: the file has become shorter, or cannot be read.
        """
        self._source.read_into(target[: segment.file_size], segment.file_offset)

    def load_into(self, memory: GuestMemory) -> None:
        """Read all segments to their places in ``memory``, which is zeros.

        Raises:
            InputError: the file has become shorter, or cannot be read.
        """
        for segment in self.segments:
            self.read_segment_into(segment, memory.view(segment.address, segment.file_size))

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_kernel(path: str | os.PathLike[str]) -> KernelImage:
    """Open the kernel in the file ``path``, which the image then keeps open.

    Raises:
        InputError: the file cannot be read, or is not a kernel that can be loaded.
    """
    with ExitStack() as undo:
        file = KernelFile(path, _WANTED)
        undo.callback(file.close)
        head = _read(file, 0, min(file.size, _SETUP_END))
        if not head.startswith(_ELF_MAGIC):
            return _parse(path, _Unpacked(_unpack(file, head)))
        image = _parse(path, file)
        undo.pop_all()
    return image


def check_kernel(path: str | os.PathLike[str]) -> None:
    """Check the headers of the kernel in the file ``path``; a bzImage is not unpacked.

    Raises:
        InputError: the file cannot be read, is no 64-bit kernel, or is cut short or damaged.
    """
    with ExitStack() as undo:
        file = KernelFile(path, _WANTED)
        undo.callback(file.close)
        head = _read(file, 0, min(file.size, _SETUP_END))
        if head.startswith(_ELF_MAGIC):
            _parse(path, file)
        else:
            _check_setup(file, head)


def _read(source: _Source, offset: int, size: int) -> bytes:
    data = bytearray(size)
    source.read_into(data, offset)
    return bytes(data)


def _check_setup(file: KernelFile, head: bytes) -> None:
    """Check the header of a bzImage, which begins with ``head``, and that its payload is there.

    Raises:
        InputError: the file is something else, has no 64-bit entry, or is cut short.
    """
    if len(head) < _SETUP_END or head[_SETUP_MAGIC:_SETUP_VERSION] != b"HdrS":
        raise InputError(f"{file.path} {_describe_content(head)}", _WANTED)
    (version,) = struct.unpack_from("<H", head, _SETUP_VERSION)
    (load_flags,) = struct.unpack_from("<H", head, _SETUP_LOAD_FLAGS)
    if version >= _VERSION_WITH_LOAD_FLAGS and not load_flags & _XLF_KERNEL_64:
        raise InputError(f"{file.path} is a kernel without a 64-bit entry", _WANTED)
    offset, length = struct.unpack_from("<II", head, _SETUP_PAYLOAD)
    end = (1 + (head[_SETUP_SECTORS] or _DEFAULT_SECTORS)) * _SECTOR + offset + length
    if version >= _VERSION_WITH_PAYLOAD and file.size < end:
        raise InputError(
            f"{file.path} is cut short or damaged: its payload ends at byte {end}, and the file"
            f" at byte {file.size}",
            _AGAIN,
        )


def _unpack(file: KernelFile, head: bytes) -> bytes:
    """Return the ELF file in a bzImage that begins with ``head``."""
    _check_setup(file, head)

    from slipway_initramfs.debian.kernel import MAX_KERNEL, unpack_vmlinuz
    from slipway_initramfs.errors import ImageError

    if file.size > MAX_KERNEL:
        raise InputError(
            f"{file.path} has {format_mib(file.size)}, too many for a bzImage", _WANTED
        )
    try:
        return unpack_vmlinuz(_read(file, 0, file.size))
    except ImageError as error:
        raise InputError(f"{file.path} cannot be booted: {error.message}", _WANTED) from None


def _describe_content(head: bytes) -> str:
    """Describe a file that begins with ``head`` and is neither ELF nor bzImage."""
    if not head:
        return "is empty"
    if head[_ARM64_MAGIC : _ARM64_MAGIC + 4] == b"ARM\x64":
        return "is a kernel for aarch64"
    if all(byte >= 0x20 or byte in b"\t\n\f\r\x1b" for byte in head):
        return "is a text file"
    return f"is neither an ELF file nor a bzImage: it begins with {head[:8].hex(' ')}"


def _parse(path: str | os.PathLike[str], source: _Source) -> KernelImage:
    def report_damage(reason: str) -> InputError:
        return InputError(f"{path} is cut short or damaged: {reason}", _AGAIN)

    def report_other(what: str) -> InputError:
        return InputError(f"{path} is {what}", _WANTED)

    if source.size < _ELF_HEADER.size:
        raise report_damage(f"it ends at byte {source.size}, within its ELF header")
    header = _ELF_HEADER.unpack(_read(source, 0, _ELF_HEADER.size))
    ident, kind, machine, _, entry, offset, _, _, _, entry_size, count = header
    encoding = ident[_CLASS_AND_DATA]
    if encoding != _ELF64_LITTLE_ENDIAN:
        if encoding in _OTHER_ENCODINGS:
            raise report_other(
                f"a {_OTHER_ENCODINGS[encoding]} ELF file, not a 64-bit kernel for x86"
            )
        raise report_damage(f"its ELF header has the class and encoding {encoding.hex(' ')}")
    if machine != _X86_64:
        name = _OTHER_MACHINES.get(machine, f"machine number {machine}")
        raise report_other(f"an ELF file for {name}, not x86-64")
    if kind != _EXECUTABLE:
        raise report_other(f"{_OTHER_TYPES.get(kind, f'an ELF file of type {kind}')}, not a kernel")
    if entry_size != _PROGRAM_HEADER.size or count > MAX_PROGRAM_HEADERS:
        raise report_damage(f"it claims to have {count} program headers of {entry_size} bytes")
    size = count * entry_size
    if offset + size > source.size:
        raise report_damage(
            f"its program headers end at byte {offset + size}, and it at {source.size}"
        )
    headers = _PROGRAM_HEADER.iter_unpack(_read(source, offset, size))
    loads = [header for header in headers if header[0] == _PT_LOAD and any(header[5:7])]
    if not loads:
        raise report_other("an ELF file with nothing to load, not a kernel")
    if not any(load[3] >= _UPPER_HALF for load in loads):
        raise report_other("a program for user space, not a kernel")
    loads.sort(key=lambda load: load[4])
    segments = tuple(KernelSegment(load[2], *load[4:7]) for load in loads)
    if reason := _find_misplaced(segments, entry, source.size):
        raise report_damage(reason)
    return KernelImage(path, source, entry, segments)


def _find_misplaced(segments: tuple[KernelSegment, ...], entry: int, file_size: int) -> str:
    """Return why the segments cannot be a kernel's; empty if they can."""
    free = LOWEST_ADDRESS
    for segment in segments:
        name = f"its segment for address {segment.address:#x}"
        if segment.file_size > segment.memory_size:
            return f"{name} has more bytes in the file than in memory"
        if (end := segment.file_offset + segment.file_size) > file_size:
            return f"{name} ends at byte {end}, and the file at byte {file_size}"
        if segment.address < LOWEST_ADDRESS:
            return f"{name} begins below {LOWEST_ADDRESS:#x}"
        if segment.end > ADDRESS_LIMIT:
            return f"{name} ends above 4 GiB"
        if segment.address < free:
            return f"{name} overlaps the one before it"
        free = segment.end
    if not any(s.address <= entry < s.address + s.file_size for s in segments):
        return f"its entry {entry:#x} is in none of its segments"
    return ""
