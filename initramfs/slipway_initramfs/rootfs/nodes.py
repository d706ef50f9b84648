"""Nodes of a root file system in memory: directories, files, links and devices."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipway_initramfs.errors import ImageError
from slipway_initramfs.rootfs.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway_initramfs.disk.spool import Extent
    from slipway_initramfs.rootfs.sparse_file import SparseFile

    Content = bytes | Extent | SparseFile

# (uid, gid) of root.
ROOT = (0, 0)


@dataclass(slots=True, eq=False)
class Node:
    """An inode; a hard-linked file is one node with several names.

    ``mode`` holds type and permission bits, ``owner`` (uid, gid), ``content`` the bytes of a
    regular file, ``target`` the text of a symbolic link, ``device`` the (major, minor) of a device
    node.
    """

    mode: int
    owner: tuple[int, int] = ROOT
    content: Content = b""
    target: str = ""
    device: tuple[int, int] = (0, 0)
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        """True for a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """True for a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """True for a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def size(self) -> int:
        """Bytes of content: the length of a file, or of the target of a symbolic link."""
        if self.is_link:
            return len(encode(self.target))
        return len(self.content) if isinstance(self.content, bytes) else self.content.size

    def chunks(self) -> Iterator[bytes]:
        """Yield a regular file's content in chunks."""
        if isinstance(self.content, bytes):
            yield self.content
        else:
            yield from self.content.chunks()

    def read(self, limit: int) -> bytes:
        """Return a regular file's content.

        Raises:
            ImageError: the file has more than ``limit`` bytes.
        """
        if self.size > limit:
            raise ImageError(f"a file of {self.size} bytes where at most {limit} are expected")
        return b"".join(self.chunks())
