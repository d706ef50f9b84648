"""File sets: named files of a directory or of a plain tar archive, both untrusted."""

from __future__ import annotations

import os
import posixpath
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from slipway_initramfs.disk.spool import CHUNK
from slipway_initramfs.errors import ImageError
from slipway_initramfs.rootfs.paths import check_length, split
from slipway_initramfs.tar import members

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

# Limit on the entries of an archive of images.
MAX_MEMBERS = 1 << 16
# Limit on links that are followed to a file.
MAX_LINKS = 8

_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")


@dataclass(frozen=True, slots=True)
class FileSlice:
    """``size`` bytes from ``start`` of an open file."""

    descriptor: int
    start: int
    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer at the end."""
        wanted = min(size, self.size - offset)
        return os.pread(self.descriptor, wanted, self.start + offset) if wanted > 0 else b""

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes from ``offset`` on, in chunks."""
        try:
            while data := self.read_at(offset, CHUNK):
                offset += len(data)
                yield data
        except OSError as error:
            raise ImageError(f"cannot read an image: {error.strerror}") from error


class FileSet(Protocol):
    """Files by their relative names; all methods raise ImageError."""

    def open(self, name: str) -> AbstractContextManager[FileSlice]:
        """Open a file."""
        ...

    def read(self, name: str, limit: int) -> bytes:
        """Return all bytes of a file.

        Raises:
            ImageError: the file has more than ``limit`` bytes.
        """
        ...

    def close(self) -> None:
        """Close open files."""
        ...


def open_file_set(path: Path) -> FileSet:
    """Open a directory or a plain tar archive.

    Raises:
        ImageError: the path cannot be opened, or the archive is invalid.
    """
    try:
        # Without O_NONBLOCK the open of a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot open {path}: {_describe_reason(error)}") from error
    with ExitStack() as on_error:
        on_error.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        files: FileSet
        if stat.S_ISDIR(status.st_mode):
            files = _DirectoryFiles(path, descriptor)
        elif stat.S_ISREG(status.st_mode):
            files = _TarFiles(path, FileSlice(descriptor, 0, status.st_size))
        else:
            raise ImageError(f"{path} is neither a directory nor a file")
        on_error.pop_all()
    return files


class _Files:
    """Common part of directories and archives."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def open(self, name: str) -> AbstractContextManager[FileSlice]:
        raise NotImplementedError

    def read(self, name: str, limit: int) -> bytes:
        with self.open(name) as part:
            if part.size > limit:
                raise ImageError(f"{self._path}: {name[:80]!r} has more than {limit >> 20} MiB")
            return b"".join(part.chunks())

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _DirectoryFiles(_Files):
    @contextmanager
    def open(self, name: str) -> Iterator[FileSlice]:
        """Open a file; symbolic links are refused, as they may lead anywhere."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        parts = split(name)
        try:
            here = os.dup(self._descriptor)
            for part in parts:
                above = here
                try:
                    here = os.open(part, flags, dir_fd=above)
                finally:
                    os.close(above)
            status = os.fstat(here)
        except OSError as error:
            raise ImageError(
                f"{self._path}: cannot open {name[:80]!r}: {_describe_reason(error)}"
            ) from error
        try:
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{self._path}: {name[:80]!r} is not a regular file")
            yield FileSlice(here, 0, status.st_size)
        finally:
            os.close(here)


class _TarFiles(_Files):
    def __init__(self, path: Path, file: FileSlice) -> None:
        super().__init__(path, file.descriptor)
        if file.read_at(0, 6).startswith(_COMPRESSED):
            raise ImageError(
                f"{path} is compressed", "Decompress it first: only plain tar is read."
            )
        self._parts: dict[str, FileSlice] = {}
        self._links: dict[str, str] = {}
        try:
            self._index_members(file)
        except OSError as error:
            raise ImageError(f"cannot read {path}: {_describe_reason(error)}") from error

    def _index_members(self, file: FileSlice) -> None:
        for number, member in enumerate(members.read_members(file)):
            if number == MAX_MEMBERS:
                raise ImageError(f"{self._path} has more than {MAX_MEMBERS} entries")
            name = "/".join(split(member.name))
            check_length(member.link)
            self._parts.pop(name, None)
            self._links.pop(name, None)
            if member.kind == members.FILE and member.segments is None:
                self._parts[name] = FileSlice(file.descriptor, member.offset, member.size)
            elif member.kind == members.HARDLINK:
                self._links[name] = posixpath.normpath(member.link)
            elif member.kind == members.SYMLINK:
                self._links[name] = posixpath.normpath(
                    posixpath.join(posixpath.dirname(name), member.link)
                )

    @contextmanager
    def open(self, name: str) -> Iterator[FileSlice]:
        found = "/".join(split(name))
        for _ in range(MAX_LINKS):
            if found not in self._links:
                break
            found = self._links[found]
        if found not in self._parts:
            raise ImageError(f"{self._path} has no file {name[:80]!r}")
        yield self._parts[found]


def _describe_reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
