"""Layers of Debian's packages: the nearest to an official image's content that tests can get."""

from __future__ import annotations

import io
import struct
import tarfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slipway_initramfs.debian.archive import DebianArchive, Package
    from slipway_initramfs.disk.spool import Spool
    from support.layer_writer import LayerWriter

    Place = Callable[[str], str | None]
    """Where a file of a package is put, or None to leave it out."""
    Change = Callable[[str, bytes], bytes]
    """Called with the new path and the content of each file small enough to be changed."""

CHANGEABLE = 1 << 16
"""Largest file that is given to a ``Change``, in bytes."""

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""What is a link into /usr in Debian's images."""

_FETCHED_AHEAD = 2


def merge_usr(path: str) -> str:
    """Return the path to which dpkg writes a file that its package has in one of MERGED."""
    return f"usr/{path}" if path.partition("/")[0] in MERGED else path


class Packages:
    """Packages of one architecture, downloaded when they are first needed."""

    def __init__(self, source: DebianArchive) -> None:
        self._source = source

    @property
    def architecture(self) -> str:
        return self._source.architecture

    def resolve(self, names: Sequence[str], without: Iterable[Package] = ()) -> list[Package]:
        """Return the packages and their dependencies, except those present already."""
        there = {package.name for package in without}
        return [p for p in self._source.resolve(names) if p.name not in there]

    def select(self, names: Sequence[str]) -> list[Package]:
        """Return the packages without their dependencies."""
        return [p for p in self._source.resolve(names) if p.name in names]

    def add(
        self,
        layer: LayerWriter,
        packages: Iterable[Package],
        place: Place = merge_usr,
        change: Change | None = None,
    ) -> None:
        """Add the files of ``packages`` to ``layer``."""
        wanted = list(packages)
        self._source.fetch(wanted)
        with ThreadPoolExecutor(_FETCHED_AHEAD) as pool:
            for spool in pool.map(self._source.open, wanted):
                _copy(spool, layer, place, change)


def _copy(spool: Spool, layer: LayerWriter, place: Place, change: Change | None) -> None:
    source = cast("BinaryIO", io.BufferedReader(SpoolFile(spool), 1 << 20))
    with tarfile.open(fileobj=source, mode="r:") as archive:
        for member in archive:
            path = place(member.name.removeprefix("./").rstrip("/")) if member.name != "." else None
            if path is None:
                continue
            member.name = path
            member.pax_headers = {}
            if member.islnk():
                member.linkname = place(member.linkname.removeprefix("./")) or ""
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None and change is not None and member.size <= CHANGEABLE:
                data = change(path, content.read())
                member.size = len(data)
                layer.add(member, io.BytesIO(data))
            else:
                layer.add(member, cast("BinaryIO | None", content))


class SpoolFile(io.RawIOBase):
    """A spool as a file to read and to seek in."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._spool.size)[whence]
        return self._position

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._spool.read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def status(packages: Iterable[Package]) -> str:
    """A dpkg database as the images have it, without what only dpkg reads."""
    return "".join(
        f"Package: {package.name}\nStatus: install ok installed\nPriority: optional\n"
        f"Architecture: {package.architecture}\nVersion: {package.version}\n\n"
        for package in sorted(packages, key=lambda package: package.name)
    )


def set_runpath(elf: bytes, runpath: str) -> bytes:
    """Return a program (64-bit, little-endian) that looks for its libraries in ``runpath``.

    As `patchelf` would do it, but in place: the linker leaves spare entries at the end of the
    dynamic section, and the page of a segment has room after the segment's end. Sources: System V
    ABI, "Program Header" and "Dynamic Section".
    """
    load, dynamic, null, strtab, dt_runpath = 1, 2, 0, 5, 29
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + n * size) for n in range(count)]
    end = next(offset + length for kind, _, offset, _, _, length in headers if kind == load)
    start, room = next((o, length) for kind, _, o, _, _, length in headers if kind == dynamic)
    entries = {
        tag: (offset, value)
        for offset in reversed(range(start, start + room, 16))
        for tag, value in [struct.unpack_from("<QQ", elf, offset)]
    }
    text = runpath.encode() + b"\0"
    spare, _ = entries[null]
    if (
        spare + 16 >= start + room
        or any(elf[end : end + len(text)])
        or end % 4096 + len(text) > 4096
    ):
        raise ValueError("no room for a RUNPATH")
    patched = bytearray(elf)
    patched[end : end + len(text)] = text
    struct.pack_into("<QQ", patched, spare, dt_runpath, end - entries[strtab][1])
    return bytes(patched)
