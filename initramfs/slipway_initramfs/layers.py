"""Layers: tar archives that are applied to a tree one over the other.

Both sources of images, packages and registries, come down to this. Everything that a tar archive
says is hostile: names, link targets, sizes, numbers. The rules for whiteouts are those of the OCI
image specification ("Image Layer Filesystem Changeset"). A package's directory over an existing
link to a directory keeps the link, as dpkg does: that is what makes packages fit a merged /usr.
"""

from __future__ import annotations

import stat
import tarfile
from typing import TYPE_CHECKING, Literal

from slipway_initramfs.errors import ImageError
from slipway_initramfs.spool import Extent
from slipway_initramfs.tree import Node, Tree, split

if TYPE_CHECKING:
    from slipway_initramfs.spool import Spool

Dialect = Literal["deb", "oci"]
MAX_HEADER = 1 << 20
"""Longest extended header of a tar entry that is read into memory, in bytes."""

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_AUFS = ".wh..wh."
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


def apply_layer(tree: Tree, tar: Spool, dialect: Dialect) -> None:
    """Apply an uncompressed tar archive over what is there.

    Raises ImageError for whatever is not a sound archive of harmless entries; the tree is then
    in an undefined state and good for nothing.
    """
    tree.layer += 1
    try:
        with tarfile.TarFile(
            fileobj=_HeaderReader(tar),  # type: ignore[arg-type]
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            _apply(tree, archive, tar, dialect)
    except ImageError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError) as error:
        raise ImageError(f"broken tar archive: {error}") from error
    except (OSError, KeyError, IndexError, AttributeError, TypeError, MemoryError) as error:
        # What tarfile lets through when its input makes no sense.
        raise ImageError(f"broken tar archive: {type(error).__name__}: {error}") from error


def _apply(tree: Tree, archive: tarfile.TarFile, tar: Spool, dialect: Dialect) -> None:
    position = -1
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]
        if archive.offset <= position:
            raise ImageError("broken tar archive: an entry of negative size")
        position = archive.offset
        _apply_member(tree, member, tar, dialect)
    # tarfile takes a damaged header for the end of the archive; the real end is a block of
    # zeros, or the end of the file (which Go's archive/tar writes and reads as well).
    if tar.read_at(archive.offset, tarfile.BLOCKSIZE).strip(b"\0"):
        raise ImageError(f"broken tar archive: no valid header at offset {archive.offset}")


def _apply_member(tree: Tree, member: tarfile.TarInfo, tar: Spool, dialect: Dialect) -> None:
    parts = split(member.name)
    name = parts[-1] if parts else ""
    if dialect == "oci" and name.startswith(_WHITEOUT):
        _whiteout(tree, parts[:-1], name)
        return
    mode, owner = member.mode & 0o7777, (member.uid, member.gid)
    if not all(0 <= number < 1 << 32 for number in owner):
        raise ImageError(f"{member.name!r} belongs to the impossible owner {owner}")
    if member.isdir():
        _put_directory(tree, parts, Node(stat.S_IFDIR | mode, owner), dialect)
    elif member.issym():
        tree.put(member.name, Node(stat.S_IFLNK | 0o777, owner, target=member.linkname))
    elif member.islnk():
        tree.add_hardlink(member.name, member.linkname)
    elif member.type in _DEVICES:
        kind: Literal["c", "b"] = "c" if member.type == tarfile.CHRTYPE else "b"
        device = (member.devmajor, member.devminor)
        tree.add_device(member.name, kind, device, mode, owner)
    elif member.isfifo():
        tree.add_device(member.name, "p", (0, 0), mode, owner)
    elif member.type in _FILES and not member.issparse():
        if not 0 <= member.size <= tar.size - member.offset_data:
            raise ImageError(f"broken tar archive: {member.name!r} is cut short")
        content = Extent(tar, member.offset_data, member.size) if member.size else b""
        tree.add_file(member.name, content, mode, owner)
    else:
        raise ImageError(f"{member.name!r} has the unsupported tar type {member.type!r}")


def _put_directory(tree: Tree, parts: list[str], node: Node, dialect: Dialect) -> None:
    if dialect == "deb" and parts:
        existing = tree.locate(parts)
        if existing is not None and existing.is_link:
            tree.make_way(parts)
            return
    tree.put("/".join(parts), node)


def _whiteout(tree: Tree, parents: list[str], name: str) -> None:
    parent = tree.locate(parents, follow=True)
    if parent is None or not parent.is_directory:
        return
    if name == _OPAQUE:
        _drop_older(parent, tree.layer)
        return
    victim = name.removeprefix(_WHITEOUT)
    if name.startswith(_AUFS):
        return
    if victim in ("", ".", ".."):
        raise ImageError(f"whiteout {name!r} names nothing")
    node = parent.children.get(victim)
    if node is None:
        return
    if node.is_directory:
        _drop_older(node, tree.layer)
    if node.layer < tree.layer and not node.children:
        del parent.children[victim]


def _drop_older(top: Node, layer: int) -> None:
    """Remove below ``top`` all that earlier layers brought.

    An archive may carry the whiteout after entries of its own for the same directory.
    """
    order: list[Node] = [top]
    for directory in order:
        order.extend(child for child in directory.children.values() if child.is_directory)
    for directory in reversed(order):
        directory.children = {
            name: child
            for name, child in directory.children.items()
            if child.layer == layer or child.children
        }


class _HeaderReader:
    """What tarfile reads headers through; contents are taken from the spool directly."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise ImageError(f"broken tar archive: a header of {size} bytes")
        data = self._spool.read_at(self._position, size)
        self._position += len(data)
        return data

    def seek(self, position: int) -> int:
        if position < 0:
            raise ImageError("broken tar archive: an entry of negative size")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position
