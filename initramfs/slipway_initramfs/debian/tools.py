"""Base set of tools for container images: Debian's programs and files that an image lacks.

Files of the image are never replaced. A program is added only if no program directory has its name
(otherwise a link leads to the image's own program, for scripts with absolute paths), a library only
if the image lacks it, any other file only in a free place. On an image without glibc (Alpine, or an
empty image) Debian's programs bring glibc along.
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

# Version of glibc in the Debian release of the tools.
C_LIBRARY = (2, 36)

_PLACES = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
# Packages whose files depend on each other: skipped as a whole if the image has this program.
_WHOLE = {"perl-base": "perl"}
_DATA = re.compile(r"(?:etc|usr/share|usr/lib/ssl|usr/lib/terminfo)/.*", re.DOTALL)
_LIBRARY = re.compile(r"(?P<stem>.+?\.so(?:\.[0-9]+)?)(?:\..*)?")
_MAX_LIBRARY = 1 << 26
_RELEASE = re.compile(rb"GNU C Library [^\n]{0,80}release version ([0-9]{1,4})\.([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Tools:
    """Downloaded packages of the base set, or the reason why they are missing."""

    selection: PackageSelection | None
    missing: str = ""

    @classmethod
    def resolve(
        cls, store: ImageStore, architecture: str, refresh: bool, progress: BuildProgress
    ) -> Tools:
        """Resolve and download the base set.

        Errors other than DiskFull are recorded in ``missing``: an image is useful without the
        tools.

        Raises:
            DiskFull: the disk has too little space.
        """
        try:
            choice = PackageChoice(defaults.TOOLS, defaults.EXCLUDE)
            return cls(
                PackageSelection.resolve(choice, store, architecture, refresh, progress).fetch(
                    "the tools"
                )
            )
        except DiskFull:
            raise
        except ImageError as error:
            return cls(None, f"the base set of tools is missing: {error.message}")

    def key(self) -> list[str]:
        """Return the packages' digests."""
        return self.selection.digests() if self.selection else []

    def add(self, tree: Tree, path: str) -> list[str]:
        """Add the tools that ``tree`` lacks; return warnings.

        ``path`` is the image's search path.
        """
        if self.selection is None:
            return [self.missing]
        architecture = self.selection.architecture
        has_glibc = loader_cache.has_loader(tree, architecture)
        theirs = find_c_library_version(tree, architecture) if has_glibc else C_LIBRARY
        places = {*_PLACES, *(place.strip("/") for place in path.split(":") if place)}
        image = ToolTarget(tree, architecture, places)
        own = self._unpack(image, has_glibc)
        if theirs >= C_LIBRARY:
            image.add_all(own)
            return []
        image.add_all(own, _DATA)
        version = ".".join(map(str, theirs)) or "unknown"
        return [
            f"the base set's programs are missing: they need glibc {C_LIBRARY[0]}.{C_LIBRARY[1]},"
            f" and the image has {version}"
        ]

    def manifest(self) -> dict[str, Any]:
        """Return the packages of the tools, for a manifest."""
        return {"tools": self.selection.manifest() if self.selection else []}

    def _unpack(self, image: ToolTarget, has_glibc: bool) -> Tree:
        """Return the tools as a separate tree."""
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
        defaults.add_certificates(own)
        own.remove(defaults.TRIM)
        return own


@dataclass(slots=True)
class ToolTarget:
    """Image that receives tools, with its programs and libraries before the first addition."""

    tree: Tree
    architecture: str
    places: set[str]
    # Path of each program, by name.
    commands: dict[str, str] = field(init=False)
    libraries: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        triplet = TRIPLETS[self.architecture]
        self.commands = self._list_names(sorted(self.places))
        self.libraries = self._list_names([f"lib/{triplet}", f"usr/lib/{triplet}"])

    def _list_names(self, directories: list[str]) -> dict[str, str]:
        # Several paths may lead to the same directory.
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
        """Add missing files of ``own``, a tree with a merged /usr; ``only`` limits their paths."""
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
                # Scripts name programs by their paths in Debian.
                node = Node(stat.S_IFLNK | 0o777, target=f"/{self.commands[name]}")
        elif directory == f"usr/lib/{TRIPLETS[self.architecture]}":
            match = _LIBRARY.fullmatch(name)
            there = (match["stem"] if match else name) in self.libraries
        if there:
            return False
        try:
            self.tree.put(path, node)
        except ImageError:
            # The image has a file in the place of a directory.
            return False
        return True

    def _add_links(self, merged: tuple[str, ...], added: list[str]) -> None:
        """Link added files below / too, if the image's /bin or /lib is not a link into /usr."""
        for path in added:
            parts = path.split("/")
            if parts[0] != "usr" or len(parts) < 3 or parts[1] not in merged:
                continue
            top = self.tree.find(parts[1], follow=False)
            if top is not None and top.is_directory and parts[2] not in top.children:
                self.tree.add_symlink(f"{parts[1]}/{parts[2]}", f"/usr/{parts[1]}/{parts[2]}")


def find_c_library_version(tree: Tree, architecture: str) -> tuple[int, ...]:
    """Return the version of the image's glibc, or an empty tuple if unknown."""
    triplet = TRIPLETS[architecture]
    for directory in (f"lib/{triplet}", f"usr/lib/{triplet}", "lib64", "usr/lib64", "lib"):
        node = tree.find_untrusted(f"{directory}/libc.so.6")
        if node is not None and node.is_file and node.size <= _MAX_LIBRARY:
            match = _RELEASE.search(node.read(_MAX_LIBRARY))
            return (int(match[1]), int(match[2])) if match else ()
    return ()
