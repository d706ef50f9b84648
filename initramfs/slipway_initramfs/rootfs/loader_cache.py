"""``/etc/ld.so.cache``, written as by ``ldconfig``: the path of each library, for the loader.

``ldconfig -p`` reads the file for programs that look for a library by name, such as Python's
find_library. Programs also start a little faster, as the loader tries fewer directories. The format
is glibc's (sysdeps/generic/dl-cache.h, "cache_file_new"), without extensions.
"""

from __future__ import annotations

import re
import struct
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from slipway_initramfs.architectures import LOADERS, TRIPLETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway_initramfs.rootfs.nodes import Node
    from slipway_initramfs.rootfs.tree import Tree

PATH = "etc/ld.so.cache"

# FLAG_ELF_LIBC6 with that of the architecture; e_machine of its files.
_FLAGS = {"amd64": 0x0303, "arm64": 0x0A03}
_MACHINES = {"amd64": 62, "arm64": 183}
_HEADER = struct.Struct("<20sIIB3xI12x")
_ENTRY = struct.Struct("<iIIIQ")
_LITTLE_ENDIAN = 2
_LIBRARY = re.compile(r"(?:lib|ld-)[^/]*\.so(?:\.[^/]*)?")
_MAX_CONFIGURATION = 1 << 16
# Limits on the whole configuration: files of an image may include each other endlessly.
_MAX_INCLUDES = 64
_MAX_FILES = 256
_MAX_DIRECTORIES = 1024
_MAX_PATTERN = 255


def has_loader(tree: Tree, architecture: str) -> bool:
    """Check whether glibc's loader is at the path that programs name."""
    return tree.find(LOADERS[architecture]) is not None


def add_loader_cache(tree: Tree, architecture: str) -> None:
    """Write the cache of the libraries in ``tree``, if glibc's loader is present."""
    if not has_loader(tree, architecture):
        return
    found = list(_find_libraries(tree, architecture))
    # The loader does a binary search in descending order; among equal names the first wins.
    found.sort(key=lambda entry: _build_sort_key(entry[0]), reverse=True)
    strings = bytearray()
    offsets: dict[str, int] = {}
    start = _HEADER.size + _ENTRY.size * len(found)

    def place(text: str) -> int:
        if text not in offsets:
            offsets[text] = start + len(strings)
            strings.extend(text.encode("utf-8", "surrogateescape") + b"\0")
        return offsets[text]

    flags = _FLAGS[architecture]
    entries = b"".join(_ENTRY.pack(flags, place(name), place(path), 0, 0) for name, path in found)
    header = _HEADER.pack(b"glibc-ld.so.cache1.1", len(found), len(strings), _LITTLE_ENDIAN, 0)
    tree.add_file(PATH, header + entries + bytes(strings))


def _find_libraries(tree: Tree, architecture: str) -> Iterator[tuple[str, str]]:
    """Yield name and path of each library, in the search order of directories."""
    seen: set[int] = set()
    judged: dict[int, bool] = {}
    for directory in _list_directories(tree, architecture):
        node = tree.find_untrusted(directory)
        if node is None or not node.is_directory or id(node) in seen:
            continue
        seen.add(id(node))
        # Of a file and a link to it in the same directory, programs ask for the link's name.
        linked = {child.target for child in node.children.values() if child.is_link}
        for name in sorted(node.children.keys() - linked):
            if _LIBRARY.fullmatch(name):
                library = tree.find_untrusted(f"{directory}/{name}")
                if library is None:
                    continue
                if id(library) not in judged:
                    judged[id(library)] = _is_library(library, architecture)
                if judged[id(library)]:
                    yield name, f"/{directory}/{name}"


def _is_library(node: Node, architecture: str) -> bool:
    head = next(node.chunks(), b"") if node.is_file else b""
    machine = _MACHINES[architecture].to_bytes(2, "little")
    return head[:5] == b"\x7fELF\x02" and head[18:20] == machine


def _list_directories(tree: Tree, architecture: str) -> list[str]:
    here = TRIPLETS[architecture]
    usual = [f"lib/{here}", f"usr/lib/{here}", "lib", "usr/lib", "lib64", "usr/lib64"]
    return [*_Configuration(tree).directories(), *usual]


class _Configuration:
    """``/etc/ld.so.conf`` and the files that it includes, each read once."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._read: set[str] = set()
        self._includes = 0
        self._found: list[str] = []

    def directories(self) -> list[str]:
        """Return the directories that the configuration names."""
        self._read_file("etc/ld.so.conf")
        return self._found

    def _read_file(self, path: str) -> None:
        node = self._tree.find_untrusted(path)
        if node is None or not node.is_file or node.size > _MAX_CONFIGURATION:
            return
        if path in self._read or len(self._read) == _MAX_FILES:
            return
        self._read.add(path)
        for line in node.read(_MAX_CONFIGURATION).decode("utf-8", "replace").splitlines():
            text = line.partition("#")[0].strip()
            word, _, pattern = text.partition(" ")
            if word == "include":
                self._include_files(pattern.strip())
            elif text.startswith("/") and len(self._found) < _MAX_DIRECTORIES:
                self._found.append(text.strip("/"))

    def _include_files(self, pattern: str) -> None:
        self._includes += 1
        if self._includes > _MAX_INCLUDES:
            return
        directory, _, names = pattern.rpartition("/")
        directory = directory.strip("/") if pattern.startswith("/") else f"etc/{directory}"
        node = self._tree.find_untrusted(directory)
        if node is None or len(names) > _MAX_PATTERN:
            return
        for name in sorted(child for child in node.children if fnmatchcase(child, names)):
            self._read_file(f"{directory.rstrip('/')}/{name}")


def _build_sort_key(name: str) -> list[tuple[int, int]]:
    """Return the loader's sort key of a name: numbers compare as numbers, after letters."""
    return [
        (1, int(piece)) if piece.isdecimal() else (0, ord(piece))
        for piece in re.findall(r"[0-9]+|[^0-9]", name)
    ]
