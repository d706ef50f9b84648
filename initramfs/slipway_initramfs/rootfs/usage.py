"""Usage: entries, bytes and memory of a file system in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway_initramfs.rootfs.nodes import Node

# Memory of an inode and a directory entry in the kernel (608 and 192 bytes in slabs, rounded up).
ENTRY_MEMORY = 1024
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Usage:
    """Amounts of a tree: ``files`` counts all entries, ``size`` the bytes of distinct content.

    ``memory`` is the size of all of them in a ramfs, in bytes.
    """

    files: int
    size: int
    memory: int

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Usage:
        """Count the nodes of a tree, in which a hard-linked file appears once for each name."""
        seen: set[int] = set()
        files = size = memory = 0
        for node in nodes:
            files += 1
            memory += ENTRY_MEMORY
            if not node.is_directory and id(node) not in seen:
                seen.add(id(node))
                size += node.size
                memory += -(-node.size // PAGE) * PAGE
        return cls(files, size, memory)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.files - other.files, self.size - other.size, self.memory - other.memory)
