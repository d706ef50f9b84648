"""The base set of tools for a container image: what it lacks of Debian's, beside what it has.

Nothing of the image is replaced. A program comes only where no directory of programs has its name
(else a link to the image's own does, for scripts that say where it is), a library only where its
directory has no such one, any other file only where nothing is. On an image without glibc
(Alpine's, an empty one) Debian's programs bring their own, which is nobody else's there.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slipway_initramfs.architectures import TRIPLETS
from slipway_initramfs.debian.packages import PackageChoice, PackageSelection
from slipway_initramfs.errors import DiskFull, ImageError
from slipway_initramfs.rootfs import defaults, loader_cache
from slipway_initramfs.rootfs.layers import apply_layer
from slipway_initramfs.rootfs.nodes import Node
from slipway_initramfs.rootfs.tree import Tree

if TYPE_CHECKING:
    from slipway_initramfs.progress import BuildProgress
    from slipway_initramfs.store.image_store import ImageStore

# The version of glibc in the release that the tools come from.
C_LIBRARY = (2, 36)

_PLACES = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
# Programs and files that fit only each other: all of them, or none where this is there.
_WHOLE = {"perl-base": "perl"}
_DATA = re.compile(r"(?:etc|usr/share|usr/lib/terminfo)/.*", re.DOTALL)
_LIBRARY = re.compile(r"(?P<stem>.+?\.so(?:\.[0-9]+)?)(?:\..*)?")
_MAX_LIBRARY = 1 << 26
_RELEASE = re.compile(rb"GNU C Library [^\n]{0,80}release version ([0-9]{1,4})\.([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Tools:
    """The packages of the base set, downloaded; or why there are none."""

    selection: PackageSelection | None
    missing: str = ""

    @classmethod
    def resolve(
        cls, store: ImageStore, architecture: str, refresh: bool, reports: BuildProgress
    ) -> Tools:
        """Resolve and download; an image is worth something without them, where that fails.

        Raises DiskFull.
        """
        try:
            choice = PackageChoice(defaults.TOOLS, defaults.EXCLUDE)
            return cls(
                PackageSelection.resolve(choice, store, architecture, refresh, reports).fetch(
                    "the tools"
                )
            )
        except DiskFull:
            raise
        except ImageError as error:
            return cls(None, f"without the base set of tools: {error.message}")

    def key(self) -> list[str]:
        """Return the packages' digests."""
        return self.selection.digests() if self.selection else []

    def add(self, tree: Tree, path: str) -> list[str]:
        """Add what ``tree`` lacks; ``path`` is the image's search path. Return warnings."""
        if self.selection is None:
            return [self.missing]
        architecture = self.selection.architecture
        has_glibc = loader_cache.has_loader(tree, architecture)
        theirs = _find_c_library_version(tree, architecture) if has_glibc else C_LIBRARY
        places = {*_PLACES, *(place.strip("/") for place in path.split(":") if place)}
        image = _ToolTarget(tree, architecture, places)
        own = self._unpack(image, has_glibc)
        if theirs >= C_LIBRARY:
            image.add_all(own)
            return []
        image.add_all(own, _DATA)
        version = ".".join(map(str, theirs)) or "unknown"
        return [
            f"without the base set's programs: they need glibc {C_LIBRARY[0]}.{C_LIBRARY[1]},"
            f" and that of the image is {version}"
        ]

    def manifest(self) -> dict[str, Any]:
        """Return the packages that the tools come from."""
        return {"tools": self.selection.manifest() if self.selection else []}

    def _unpack(self, image: _ToolTarget, has_glibc: bool) -> Tree:
        """Return the tools as a tree of their own."""
        assert self.selection is not None
        own = Tree()
        defaults.merge_usr(own, self.selection.architecture)
        for package, layer in self.selection.layers():
            if has_glibc and package.name in defaults.C_LIBRARY_PACKAGES:
                continue
            if package.name in _WHOLE and _WHOLE[package.name] in image.commands:
                continue
            apply_layer(own, layer, "deb")
        defaults.add_alternatives(own, self.selection.scripts())
        own.remove(defaults.TRIM)
        return own


@dataclass(slots=True)
class _ToolTarget:
    """An image that tools are added to: what it had before the first of them."""

    tree: Tree
    architecture: str
    places: set[str]
    # By name, the path of each program.
    commands: dict[str, str] = field(init=False)
    libraries: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        triplet = TRIPLETS[self.architecture]
        self.commands = self._list_names(sorted(self.places))
        self.libraries = self._list_names([f"lib/{triplet}", f"usr/lib/{triplet}"])

    def _list_names(self, directories: list[str]) -> dict[str, str]:
        # Links may make many places of one.
        nodes = {
            id(node): (directory, node)
            for directory in directories
            if (node := self.tree.find_untrusted(directory)) is not None
        }
        return {
            name: f"{directory}/{name}"
            for directory, node in nodes.values()
            for name in node.children
        }

    def add_all(self, own: Tree, only: re.Pattern[str] | None = None) -> None:
        """Add what is missing of ``own``, which has a merged /usr, and of that what matches."""
        merged = defaults.merged_directories(self.architecture)
        for name in merged:
            if self.tree.find(name, follow=False) is None:
                self.tree.add_directory(f"usr/{name}")
                self.tree.add_symlink(name, f"usr/{name}")
        added = [
            path
            for path, node in own.walk()
            if not node.is_directory
            and (only is None or only.fullmatch(path))
            and self._add_file(path, node)
        ]
        self._add_links(merged, added)

    def _add_file(self, path: str, node: Node) -> bool:
        if self.tree.find(path, follow=False) is not None:
            return False
        directory, _, name = path.rpartition("/")
        there = False
        if directory in ("usr/bin", "usr/sbin"):
            if name in self.commands:
                # Scripts name programs by the place where a Debian has them.
                node = Node(stat.S_IFLNK | 0o777, target=f"/{self.commands[name]}")
        elif directory == f"usr/lib/{TRIPLETS[self.architecture]}":
            match = _LIBRARY.fullmatch(name)
            there = (match["stem"] if match else name) in self.libraries
        if there:
            return False
        try:
            self.tree.put(path, node)
        except ImageError:
            # Where the image has a file in the place of a directory.
            return False
        return True

    def _add_links(self, merged: tuple[str, ...], added: list[str]) -> None:
        """Let what was added be found below / too, where that is not the same as below /usr."""
        for path in added:
            parts = path.split("/")
            if parts[0] != "usr" or len(parts) < 3 or parts[1] not in merged:
                continue
            top = self.tree.find(parts[1], follow=False)
            if top is not None and top.is_directory and parts[2] not in top.children:
                self.tree.add_symlink(f"{parts[1]}/{parts[2]}", f"/usr/{parts[1]}/{parts[2]}")


def _find_c_library_version(tree: Tree, architecture: str) -> tuple[int, ...]:
    """Return the version of the image's glibc, nothing if it does not say."""
    triplet = TRIPLETS[architecture]
    for directory in (f"lib/{triplet}", f"usr/lib/{triplet}", "lib64", "usr/lib64", "lib"):
        node = tree.find_untrusted(f"{directory}/libc.so.6")
        if node is not None and node.is_file and node.size <= _MAX_LIBRARY:
            match = _RELEASE.search(node.read(_MAX_LIBRARY))
            return (int(match[1]), int(match[2])) if match else ()
    return ()
