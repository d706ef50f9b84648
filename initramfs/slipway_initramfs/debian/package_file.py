"""Files of Debian packages: an ar archive with compressed tar archives (deb(5))."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from slipway_initramfs.compression.decompressors import READERS, DamagedStream
from slipway_initramfs.disk.spool import Spool
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.errors import ImageCorrupted
from slipway_initramfs.tar import members

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

# Limit on the unpacked size of a package, in bytes.
MAX_UNPACKED = 4 << 30
# Bytes of a maintainer script that are read.
MAX_SCRIPT = 1 << 20

_MAGIC = b"!<arch>\n"
_HEADER = 60
_MAX_MEMBERS = 16
_COMPRESSIONS = {".xz": "xz", ".gz": "gzip", ".zst": "zstd", "": "none"}


@dataclass(slots=True)
class _ArMember:
    """The next ``size`` bytes of an open file."""

    file: BinaryIO
    size: int

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.size))
        self.size -= len(data)
        return data


def unpack(path: Path, sha256: str, directory: Path | None = None) -> Spool:
    """Return the tar archive of a package's files, decompressed into a spool in ``directory``.

    Raises:
        ImageCorrupted: the file has another digest than ``sha256`` (hexadecimal), or is damaged.
        ImageError: the files have more than MAX_UNPACKED bytes.
    """
    with _open(path) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ImageCorrupted(
                f"package {path.name} has the digest {found[:16]}... instead of {sha256[:16]}...",
                "It will be downloaded again at the next build.",
            )
        return read_data(file, path.name, directory)


def _open(path: Path) -> BufferedReader:
    """Open a download, which a link or FIFO is not."""
    return os.fdopen(TrustedTree(path.parent).open_file(path), "rb")


def read_data(file: BinaryIO, name: str, directory: Path | None = None) -> Spool:
    """Find a package's data archive in ``file`` and decompress it; ``name`` is used in messages."""
    return _read_member(file, "data.tar", name, directory)


def read_script(path: Path, script: str) -> str:
    """Return a maintainer script of a package, such as ``postinst``; an empty string if missing.

    Raises:
        ImageCorrupted: the package is damaged.
        ImageError: the archive in the package is invalid.
    """
    with _open(path) as file:
        spool = _read_member(file, "control.tar", path.name, None)
    for member in members.read_members(spool):
        if member.name.removeprefix("./") == script and member.kind == members.FILE:
            data = spool.read_at(member.offset, min(member.size, MAX_SCRIPT))
            return data.decode("utf-8", "replace")
    return ""


def _read_member(file: BinaryIO, wanted: str, name: str, directory: Path | None) -> Spool:
    file.seek(0, 2)
    end = file.tell()
    file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ImageCorrupted(f"{name} is not a Debian package: not an ar archive")
    for _ in range(_MAX_MEMBERS):
        header = file.read(_HEADER)
        if len(header) < _HEADER or header[58:] != b"`\n":
            raise ImageCorrupted(f"{name} is not a Debian package: damaged ar header")
        member = header[:16].decode("latin-1").rstrip(" /")
        digits = header[48:58].decode("latin-1").strip()
        if not (digits.isascii() and digits.isdigit()) or int(digits) > end - file.tell():
            raise ImageCorrupted(f"package {name} is truncated in its member {member!r}")
        size = int(digits)
        if member.startswith(wanted):
            return _decompress(_ArMember(file, size), member, name, directory)
        file.seek(size + size % 2, 1)
    raise ImageCorrupted(f"package {name} has no {wanted} among its first {_MAX_MEMBERS} members")


def _decompress(source: _ArMember, member: str, name: str, directory: Path | None) -> Spool:
    suffix = member.partition(".tar")[2]
    if suffix not in _COMPRESSIONS:
        raise ImageCorrupted(f"package {name}: {member} has an unknown compression")
    try:
        reader = READERS[_COMPRESSIONS[suffix]](source)
        return Spool(directory).fill(reader, limit=MAX_UNPACKED, what=f"package {name}")
    except DamagedStream as error:
        raise ImageCorrupted(f"package {name}: damaged {member}: {error}") from error
