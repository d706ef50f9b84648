"""Reproducible cpio archives in the "newc" format.

The format is specified in Documentation/driver-api/early-userspace/buffer-format.rst of the Linux
source. Entries are sorted, without times and without device numbers of the building machine: equal
trees give equal bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway_initramfs.rootfs.paths import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway_initramfs.disk.spool import Writable
    from slipway_initramfs.rootfs.nodes import Node
    from slipway_initramfs.rootfs.tree import Tree

# An archive is padded to this many bytes.
BLOCK = 512
TRAILER = "TRAILER!!!"


def write_tree(tree: Tree, output: Writable, last: Iterable[str] = ()) -> int:
    """Write ``tree`` as an archive; return its length in bytes.

    The paths in ``last`` come after all others, in that order. The bytes of a hard-linked file
    stand at its first name; the other names are empty and refer to the inode number, as the kernel
    requires.
    """
    entries = list(tree.walk())
    final = list(last)
    if final:
        nodes = dict(entries)
        entries = [entry for entry in entries if entry[0] not in final]
        entries += [(path, nodes[path]) for path in final]
    links: dict[int, int] = {}
    for _, node in entries:
        links[id(node)] = links.get(id(node), 0) + 1
    inodes: dict[int, int] = {}
    length = 0
    for number, (path, node) in enumerate(entries, 1):
        # The kernel links regular files only; other nodes are written again for each name.
        shared = node.is_file and links[id(node)] > 1
        inode = inodes.setdefault(id(node), number) if shared else number
        size = 0 if node.is_directory or inode != number else node.size
        count = links[id(node)] if shared else 2 if node.is_directory else 1
        length += _write_header(output, path, node, (inode, count, size))
        if size:
            length += _write_body(output, node, size)
    length += _write_header(output, TRAILER, None, (0, 1, 0))
    padding = -length % BLOCK
    output.write(bytes(padding))
    return length + padding


def _write_header(
    output: Writable, path: str, node: Node | None, numbers: tuple[int, int, int]
) -> int:
    name = encode(path) + b"\0"
    inode, links, size = numbers
    mode, (uid, gid) = (node.mode, node.owner) if node else (0, (0, 0))
    major, minor = node.device if node else (0, 0)
    fields = (inode, mode, uid, gid, links, 0, size, 0, 0, major, minor, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields) + name
    header += bytes(-len(header) % 4)
    output.write(header)
    return len(header)


def _write_body(output: Writable, node: Node, size: int) -> int:
    if node.is_link:
        output.write(encode(node.target))
    else:
        for chunk in node.chunks():
            output.write(chunk)
    padding = -size % 4
    output.write(bytes(padding))
    return size + padding
