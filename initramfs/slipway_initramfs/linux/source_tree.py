"""Source of Linux: the archive in Debian's package linux-source, unpacked into a directory.

Only parts that a small kernel may need are unpacked: of the others the files that Kconfig and make
read everywhere remain. This saves two thirds of 74,000 files and 1.4 GB.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from slipway_initramfs.compression.decompressors import DamagedStream, XzReader
from slipway_initramfs.disk.spool import Extent, Spool, make_disk_error
from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError
from slipway_initramfs.tar import members

if TYPE_CHECKING:
    from pathlib import Path

    from slipway_initramfs.debian.archive import Package
    from slipway_initramfs.disk.build_directories import BuildDirectory
    from slipway_initramfs.tar.members import Member

# Meta package that depends on the newest source of the release.
PACKAGE = "linux-source"
# Limits on the unpacked archive, in bytes, and on the files taken of it.
MAX_SOURCE = 3 << 30
MAX_FILES = 100_000
# Bytes that the unpacked archive and the tree take on the disk, measured with 6.1.
ARCHIVE_BYTES = 1400 << 20
TREE_BYTES = 700 << 20

_ARCHIVE = re.compile(r"(?:\./)?usr/src/linux-source-[0-9.]+\.tar\.xz")
# Subsystems of hardware that no guest has. Other architectures are left out as well.
_LEFT_OUT = (
    "Documentation",
    "drivers/gpu",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/scsi",
    "drivers/staging",
    "drivers/usb",
    "samples",
    "sound",
    "tools/perf",
    "tools/testing",
)
_ALWAYS = re.compile(r"Kconfig.*|Makefile.*|Kbuild.*")
_SOURCE_DIRECTORIES = {"amd64": "x86", "arm64": "arm64"}


def find_source_package(packages: tuple[Package, ...]) -> Package:
    """Find the package with the source among the packages of the resolved meta package.

    Raises:
        BuildFailed: none of them has it.
    """
    for package in packages:
        if re.fullmatch(r"linux-source-[0-9.]+", package.name):
            return package
    raise BuildFailed("Debian's package linux-source does not depend on a source of Linux")


def unpack_source(package: Spool, place: BuildDirectory, architecture: str, scratch: Path) -> None:
    """Unpack the source in the files of a ``package`` into the empty directory of ``place``.

    The directories, not the files, then belong to the build's user. ``scratch`` is a directory for
    a nameless file with the decompressed archive.

    Raises:
        ImageCorrupted: the archive is damaged.
        ImageError: the package has no such archive, or one of an unusual form.
        BuildFailed: the disk is full.
    """
    directory = place.path
    archive = _open_archive(package, scratch)
    wanted = _SourceFilter(architecture)
    links: list[tuple[Path, str]] = []
    count = 0
    try:
        for member in members.read_members(archive):
            path = _parse_path(member.name)
            if path is None or not wanted.takes(path):
                continue
            count += 1
            if count > MAX_FILES:
                raise ImageError(f"the source of Linux has more than {MAX_FILES} files")
            target = directory / path
            if member.kind == members.SYMLINK:
                links.append((target, member.link))
            else:
                _write_member(archive, member, target)
        # Last: nothing is written through a link.
        for target, link in links:
            if link.startswith("/"):
                raise ImageError(f"the source of Linux has a link to {link[:80]!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(link)
        if place.user is not None:
            for parent, _, _ in os.walk(directory):
                os.chown(parent, place.user, place.user)
    except OSError as error:
        raise make_disk_error(error, directory) from error
    if not (directory / "Makefile").is_file():
        raise ImageError("the source of Linux has no Makefile")


class _SourceFilter:
    """Choice of the parts that a kernel for ``architecture`` may need."""

    def __init__(self, architecture: str) -> None:
        self._own = _SOURCE_DIRECTORIES[architecture]

    def takes(self, path: PurePosixPath) -> bool:
        if _ALWAYS.fullmatch(path.name):
            return True
        parts = path.parts
        if parts[0] == "arch" and len(parts) > 2 and parts[1] != self._own:
            return False
        return not any("/".join(parts[:depth]) in _LEFT_OUT for depth in (1, 2, 3))


def _open_archive(package: Spool, scratch: Path) -> Spool:
    for member in members.read_members(package):
        if member.kind == members.FILE and _ARCHIVE.fullmatch(member.name):
            reader = XzReader(_ExtentReader(Extent(package, member.offset, member.size)))
            try:
                return Spool(scratch).fill(reader, limit=MAX_SOURCE, what="the source of Linux")
            except DamagedStream as error:
                raise ImageCorrupted(f"the source of Linux is damaged: {error}") from error
    raise ImageError("the package linux-source has no archive in /usr/src")


class _ExtentReader:
    """The bytes of a file in an archive, in order."""

    def __init__(self, extent: Extent) -> None:
        self._extent = extent
        self._position = 0

    def read(self, size: int) -> bytes:
        extent = self._extent
        size = min(size, extent.size - self._position)
        data = extent.spool.read_at(extent.offset + self._position, size)
        self._position += len(data)
        return data


def _parse_path(name: str) -> PurePosixPath | None:
    """Return a path below the archive's top directory; None for that directory.

    Raises:
        ImageError: the path leads out of it.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ImageError(f"the source of Linux has a file {name[:80]!r}")
    return PurePosixPath(*path.parts[1:]) if len(path.parts) > 1 else None


def _write_member(archive: Spool, member: Member, target: Path) -> None:
    if member.kind == members.DIRECTORY:
        target.mkdir(parents=True, exist_ok=True)
        return
    if member.kind != members.FILE or member.segments is not None:
        raise ImageError(f"the source of Linux has an entry of an unknown kind: {member.name[:80]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o755 if member.mode & 0o100 else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(target, flags, mode), "wb") as file:
        for data in Extent(archive, member.offset, member.size).chunks():
            file.write(data)
