"""Tree: a root file system in memory, built from layers and single entries.

Names, link targets and numbers come from untrusted archives. Symbolic links are followed inside the
tree only: an entry can never end up outside.
"""

from __future__ import annotations

import stat
from collections import deque
from typing import TYPE_CHECKING, Literal

from slipway_initramfs.errors import ImageError
from slipway_initramfs.rootfs.globs import compile_globs
from slipway_initramfs.rootfs.nodes import ROOT, Node
from slipway_initramfs.rootfs.paths import MAX_NAME, MAX_PATH, check_length, encode, split
from slipway_initramfs.rootfs.sparse_file import SparseFile
from slipway_initramfs.rootfs.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from slipway_initramfs.disk.spool import Extent
    from slipway_initramfs.rootfs.nodes import Content

MAX_ENTRIES = 500_000
MAX_DEVICES = 1024
# Limit on the characters of all paths of a tree, and on those of all link targets.
#
# A path of a real tree has 80 characters on average.
MAX_NAMES = 128 << 20
# Limit on name lookups during the construction of a tree, which bounds its time.
MAX_STEPS = 1 << 26
# Limit on the holes of all sparse files, in bytes; in the guest's memory they are real zeros.
MAX_HOLES = 1 << 30
# Limit on the pieces of all sparse files; each takes memory here.
MAX_PIECES = 1 << 20
# newc writes sizes as eight hexadecimal digits.
MAX_FILE_SIZE = (1 << 32) - 1
MAX_LINK_HOPS = 40


class Tree:
    """A file system under construction; the root directory exists from the start."""

    def __init__(self) -> None:
        self.root = Node(stat.S_IFDIR | 0o755)
        self._entries = 0
        self._devices = 0
        self._holes = self._pieces = 0
        self._targets = 0
        self._steps = 0
        self._new: set[tuple[Node, str]] = set()

    # -- single entries, named by us -------------------------------------------------------------

    def add_file(
        self, path: str, data: Content, mode: int = 0o644, owner: tuple[int, int] = ROOT
    ) -> None:
        """Put a regular file at ``path``; create missing parent directories."""
        self.put(path, Node(stat.S_IFREG | mode, owner, content=data))

    def add_directory(self, path: str, mode: int = 0o755, owner: tuple[int, int] = ROOT) -> None:
        """Make ``path`` a directory with this mode and owner; existing entries in it stay."""
        self.put(path, Node(stat.S_IFDIR | mode, owner))

    def add_symlink(self, path: str, target: str) -> None:
        """Put a symbolic link with the text ``target`` at ``path``."""
        self.put(path, Node(stat.S_IFLNK | 0o777, target=target))

    def add_hardlink(self, path: str, existing: str) -> None:
        """Give the file at ``existing`` a second name.

        Raises:
            ImageError: the file is missing, or is a directory.
        """
        node = self.find(existing, follow=False)
        if node is None or node.is_directory:
            raise ImageError(
                f"hard link {path[:80]!r} to {existing[:80]!r}, which is not a file in the tree"
            )
        self.put(path, node)

    def add_device(
        self,
        path: str,
        kind: Literal["c", "b", "p"],
        device: tuple[int, int] = (0, 0),
        mode: int = 0o600,
        owner: tuple[int, int] = ROOT,
    ) -> None:
        """Put a character (``c``) or block (``b``) device or a named pipe (``p``) at ``path``."""
        major, minor = device
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise ImageError(f"device {path[:80]!r} has the invalid number {major}:{minor}")
        self._devices += 1
        if self._devices > MAX_DEVICES:
            raise ImageError(f"more than {MAX_DEVICES} device nodes")
        kinds = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
        self.put(path, Node(kinds[kind] | mode, owner, device=device))

    # -- layers ----------------------------------------------------------------------------------

    def begin_layer(self) -> None:
        """Mark the start of a layer: all present entries become old."""
        self._new.clear()

    def is_new(self, directory: Node, name: str) -> bool:
        """Check whether the current layer has put this name into this directory.

        Names count, not nodes: a layer may link to a file of an earlier layer.
        """
        return (directory, name) in self._new

    # -- looking and removing --------------------------------------------------------------------

    def find(self, path: str, *, follow: bool = True) -> Node | None:
        """Return the node at ``path``, or None; ``follow`` resolves a symbolic link at the end."""
        return self.locate(split(path), follow=follow)

    def find_untrusted(self, path: str) -> Node | None:
        """Find the node at a path from an image; return None also for an invalid path."""
        try:
            return self.find(path.strip("/"))
        except ImageError:
            return None

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Yield each path (relative, without the root) and node: parents first, sorted by bytes.

        Links can make paths longer than those that were put.

        Raises:
            ImageError: a path is longer than MAX_PATH, or all paths together than MAX_NAMES.
        """
        stack = [("", _sort_children(self.root))]
        total = 0
        while stack:
            prefix, children = stack[-1]
            found = next(children, None)
            if found is None:
                stack.pop()
                continue
            name, node = found
            path = prefix + name
            total += len(path)
            check_length(path)
            if total > MAX_NAMES:
                raise ImageError(f"the paths of all files have more than {MAX_NAMES >> 20} MiB")
            yield path, node
            if node.children:
                stack.append((f"{path}/", _sort_children(node)))

    def glob(self, pattern: str) -> list[str]:
        """Return the matching paths (globs.py), sorted."""
        matcher = compile_globs([pattern])
        return [path for path, _ in self.walk() if matcher.fullmatch(path)]

    def remove(self, globs: Iterable[str]) -> Usage:
        """Remove matching paths (globs.py) with everything below them; return the amounts."""
        before = self.usage()
        matcher = compile_globs(globs)
        stack = [("", self.root)]
        while stack:
            prefix, directory = stack.pop()
            for name in list(directory.children):
                child = directory.children[name]
                if matcher.fullmatch(prefix + name):
                    del directory.children[name]
                elif child.is_directory:
                    stack.append((f"{prefix}{name}/", child))
        return before - self.usage()

    def usage(self) -> Usage:
        """Count entries and the bytes of their content; hard-linked files count once."""
        return Usage.of(node for _, node in self.walk())

    # -- the way through the tree ----------------------------------------------------------------

    def locate(self, parts: list[str], *, follow: bool = False) -> Node | None:
        """Find a node as ``find`` does, by a path that is already split."""
        found = self._resolve(parts, follow_last=follow, create=False)
        return found[-1] if found else None

    def make_way(self, parts: list[str]) -> Node:
        """Return the directory at ``parts``; create missing directories."""
        found = self._resolve(parts, follow_last=True, create=True)
        if found is None or not found[-1].is_directory:
            raise ImageError(f"{_show_path(parts)} is not a directory where one is needed")
        return found[-1]

    def _resolve(self, parts: list[str], *, follow_last: bool, create: bool) -> list[Node] | None:
        """Return the nodes from the root to ``parts``, resolved as by chroot(2)."""
        if self._steps > MAX_STEPS:
            raise ImageError("the paths and links of the layers take too many lookups")
        trail = [self.root]
        pending = deque(parts)
        hops = 0
        while pending:
            name = pending.popleft()
            here = trail[-1]
            self._steps += 1
            if not here.is_directory:
                return None
            if name == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            child = here.children.get(name)
            if child is None:
                if not create:
                    return None
                child = self._insert(here, name, Node(stat.S_IFDIR | 0o755))
            if child.is_link and (pending or follow_last):
                hops += 1
                if hops > MAX_LINK_HOPS:
                    raise ImageError(f"too many levels of symbolic links in {_show_path(parts)}")
                if child.target.startswith("/"):
                    del trail[1:]
                pending.extendleft(
                    reversed([part for part in child.target.split("/") if part not in ("", ".")])
                )
                continue
            trail.append(child)
            if len(trail) > MAX_PATH // 2:
                raise ImageError(f"directories nested too deeply on the way to {parts[-1][:80]!r}")
        return trail

    def put(self, path: str, node: Node) -> None:
        """Put ``node`` at ``path``, in place of an existing entry.

        Raises:
            ImageError: the entry is invalid, or the tree exceeds a limit.
        """
        self.place(split(path), node)

    def place(self, parts: list[str], node: Node) -> None:
        """Put a node as ``put`` does, at a path that is already split."""
        if not parts:
            if not node.is_directory:
                raise ImageError("the root of the file system must be a directory")
            self.root.mode, self.root.owner = node.mode, node.owner
            return
        if node.is_link:
            if not (0 < len(encode(node.target)) <= MAX_PATH):
                raise ImageError(
                    f"symbolic link {_show_path(parts)} has an empty or overlong target"
                )
            if "\0" in node.target:
                raise ImageError(f"symbolic link {_show_path(parts)} has a NUL in its target")
            self._targets += len(node.target)
            if self._targets > MAX_NAMES:
                raise ImageError(f"the targets of all links have more than {MAX_NAMES >> 20} MiB")
        elif node.is_file and not isinstance(node.content, bytes):
            self._check_content(parts, node.content)
        self._insert(self.make_way(parts[:-1]), parts[-1], node)

    def _check_content(self, parts: list[str], content: Extent | SparseFile) -> None:
        if content.size > MAX_FILE_SIZE:
            raise ImageError(
                f"{_show_path(parts)} has 4 GiB or more, which a cpio archive cannot hold"
            )
        if isinstance(content, SparseFile):
            self._pieces += len(content.pieces)
            if self._pieces > MAX_PIECES:
                raise ImageError(f"sparse files with more than {MAX_PIECES} pieces of data")
            self._holes += content.holes
            if self._holes > MAX_HOLES:
                raise ImageError(f"sparse files with more than {MAX_HOLES >> 20} MiB of holes")

    def _insert(self, parent: Node, name: str, node: Node) -> Node:
        if parent is self.root and name == "TRAILER!!!":
            raise ImageError("an entry has the name TRAILER!!!, which would end the cpio archive")
        # No character takes more than four bytes.
        if len(name) > MAX_NAME // 4 and len(encode(name)) > MAX_NAME:
            raise ImageError(f"a name has more than {MAX_NAME} bytes: {name[:40]!r}...")
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise ImageError(f"more than {MAX_ENTRIES} entries")
        self._new.add((parent, name))
        existing = parent.children.get(name)
        if existing is not None and existing.is_directory and node.is_directory:
            existing.mode, existing.owner = node.mode, node.owner
            return existing
        parent.children[name] = node
        return node


def _sort_children(directory: Node) -> Iterator[tuple[str, Node]]:
    return iter(sorted(directory.children.items(), key=lambda child: encode(child[0])))


def _show_path(parts: list[str]) -> str:
    return repr("/".join(parts)[:80])
