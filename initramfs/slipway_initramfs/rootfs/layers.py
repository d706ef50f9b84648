"""Layers: tar archives that are applied to a tree in order.

Packages and container images both consist of layers. Everything in a tar archive is untrusted:
names, link targets, sizes, numbers. Whiteouts follow the OCI image specification ("Image Layer
Filesystem Changeset"). As in the programs that write layers, a whiteout spares the entries of its
own layer, before and after it. A package's directory over an existing link to a directory keeps the
link, as in dpkg; packages therefore fit a merged /usr.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from slipway_initramfs.disk.spool import Extent
from slipway_initramfs.errors import ImageError
from slipway_initramfs.rootfs.nodes import ROOT, Node
from slipway_initramfs.rootfs.paths import split
from slipway_initramfs.rootfs.sparse_file import SparseFile
from slipway_initramfs.rootfs.tree import MAX_ENTRIES
from slipway_initramfs.tar import members

if TYPE_CHECKING:
    from slipway_initramfs.disk.spool import Spool
    from slipway_initramfs.rootfs.nodes import Content
    from slipway_initramfs.rootfs.tree import Tree

Dialect = Literal["deb", "oci"]
# Limit on the names of extended attributes in a report.
MAX_NAMED_XATTRS = 16

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_AUFS = ".wh..wh."


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Attributes of a layer that the tree cannot hold.

    ``dropped_xattrs`` counts extended attributes, for which newc archives have no place;
    ``xattr_names`` are their first names, sorted. A program without its ``security.capability``
    runs without these rights.
    """

    dropped_xattrs: int = 0
    xattr_names: tuple[str, ...] = ()


def apply_layer(tree: Tree, spool: Spool, dialect: Dialect) -> LayerReport:
    """Apply an uncompressed tar archive to the tree. After an error the tree is unusable.

    Raises:
        ImageError: the archive is invalid, or an entry is not allowed.
    """
    tree.begin_layer()
    application = _Application(tree, spool, dialect)
    dropped = 0
    names: set[str] = set()
    for number, member in enumerate(members.read_members(spool)):
        if number == MAX_ENTRIES:
            raise ImageError(f"a layer has more than {MAX_ENTRIES} entries")
        application.apply(member)
        if member.xattrs:
            dropped += len(member.xattrs)
            if len(names) < MAX_NAMED_XATTRS:
                names.update(name[:80] for name in member.xattrs)
    return LayerReport(dropped, tuple(sorted(names)[:MAX_NAMED_XATTRS]))


class _Application:
    """Application of one layer to a tree."""

    def __init__(self, tree: Tree, spool: Spool, dialect: Dialect) -> None:
        self._tree = tree
        self._spool = spool
        self._dialect = dialect
        # Directories without entries of earlier layers.
        self._cleared: set[Node] = set()

    def apply(self, member: members.Member) -> None:
        parts = split(member.name)
        if self._dialect == "oci" and parts and parts[-1].startswith(_WHITEOUT):
            self._apply_whiteout(parts[:-1], parts[-1])
            return
        mode, owner = member.mode & 0o7777, member.owner
        if not all(number < 1 << 32 for number in owner):
            raise ImageError(f"{member.name[:80]!r} has the invalid owner {owner}")
        match member.kind:
            case members.FILE:
                self._tree.place(
                    parts, Node(stat.S_IFREG | mode, owner, content=self._build_content(member))
                )
            case members.DIRECTORY:
                self._put_directory(parts, Node(stat.S_IFDIR | mode, owner))
            case members.SYMLINK:
                self._tree.place(parts, Node(stat.S_IFLNK | 0o777, owner, target=member.link))
            case members.HARDLINK:
                self._tree.add_hardlink(member.name, member.link)
            case members.CHARACTER:
                self._tree.add_device(member.name, "c", member.device, mode, owner)
            case members.BLOCK_DEVICE:
                self._tree.add_device(member.name, "b", member.device, mode, owner)
            case members.FIFO:
                self._tree.add_device(member.name, "p", (0, 0), mode, owner)
            case _:
                raise ImageError(
                    f"{member.name[:80]!r} has the unsupported tar type {member.kind!r}"
                )

    def _build_content(self, member: members.Member) -> Content:
        if member.segments is None:
            return Extent(self._spool, member.offset, member.size) if member.size else b""
        pieces = []
        position = member.offset
        for offset, size in member.segments:
            pieces.append((offset, Extent(self._spool, position, size)))
            position += size
        return SparseFile(member.real_size, tuple(pieces))

    def _put_directory(self, parts: list[str], node: Node) -> None:
        if self._dialect == "deb" and parts:
            existing = self._tree.locate(parts)
            if existing is not None and existing.is_link:
                self._tree.make_way(parts)
                return
        self._tree.place(parts, node)

    def _apply_whiteout(self, parents: list[str], name: str) -> None:
        parent = self._tree.locate(parents, follow=True)
        if parent is None or not parent.is_directory:
            return
        if name == _OPAQUE:
            self._clear_older(parent)
            return
        victim = name.removeprefix(_WHITEOUT)
        if name.startswith(_AUFS):
            return
        if victim in ("", ".", ".."):
            raise ImageError(f"whiteout {name!r} without a name")
        node = parent.children.get(victim)
        if node is None:
            return
        if node.is_directory:
            self._clear_older(node)
        if not self._tree.is_new(parent, victim):
            if not node.children:
                del parent.children[victim]
            else:
                # The rest came with this layer, which has no entry for the directory itself.
                node.mode, node.owner = stat.S_IFDIR | 0o755, ROOT

    def _clear_older(self, top: Node) -> None:
        """Remove everything below ``top`` that earlier layers brought.

        The whiteout may follow entries of its own layer for the same directory.
        """
        if top in self._cleared:
            return
        order: list[Node] = [top]
        for directory in order:
            order.extend(
                child
                for child in directory.children.values()
                if child.is_directory and child not in self._cleared
            )
        for directory in reversed(order):
            directory.children = {
                name: child
                for name, child in directory.children.items()
                if child.children or self._tree.is_new(directory, name)
            }
        self._cleared.update(order)
