"""Layers give the tree that a simpler model gives, and never anything worse than an ImageError."""

from __future__ import annotations

import gzip
import io
import stat
from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import assume, given
from hypothesis import strategies as st

from fuzz.effort import share
from slipway_initramfs.compression.decompressors import READERS, DamagedStream
from slipway_initramfs.errors import ImageError
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.layers import apply_layer
from slipway_initramfs.rootfs.tree import Tree
from support.layers import (
    SPARSE_STYLES,
    Entry,
    directory,
    file,
    hardlink,
    layer,
    pax_header,
    raw_header,
    sparse_bytes,
    spool,
    symlink,
    tar_bytes,
    with_checksums,
    zstd_bytes,
)

Found = dict[str, tuple[int, bytes]]


@dataclass
class Model:
    """Paths with mode and content; what is new is new to the layer that is being applied."""

    entries: Found = field(default_factory=dict)
    new: set[str] = field(default_factory=set)

    def apply(self, entries: list[Entry]) -> None:
        self.new = set()
        for entry in entries:
            parent, _, name = entry.name.rpartition("/")
            if name == ".wh..wh..opq":
                self._hide(parent, itself=False)
            elif name.startswith(".wh."):
                self._hide(f"{parent}/{name[4:]}".lstrip("/"), itself=True)
            else:
                self._put(entry)

    def _below(self, path: str) -> list[str]:
        return [other for other in self.entries if not path or other.startswith(f"{path}/")]

    def _put(self, entry: Entry) -> None:
        parts = entry.name.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if above not in self.entries:
                self._set(above, (stat.S_IFDIR | 0o755, b""))
            if not stat.S_ISDIR(self.entries[above][0]):
                raise ImageError("not a directory")
        if entry.type == b"5":
            kept = self.entries.get(entry.name, (0, b""))
            if not stat.S_ISDIR(kept[0]):
                self._set(entry.name, (0, b""))
            self._set(entry.name, (stat.S_IFDIR | entry.mode, b""))
            return
        for other in self._below(entry.name):
            del self.entries[other]
        kind = stat.S_IFLNK | 0o777 if entry.type == b"2" else stat.S_IFREG | entry.mode
        self._set(entry.name, (kind, entry.data or entry.link.encode()))

    def _set(self, path: str, what: tuple[int, bytes]) -> None:
        self.entries[path] = what
        self.new.add(path)

    def _hide(self, path: str, *, itself: bool) -> None:
        new = {other for other in self.entries if other in self.new}
        for other in [*self._below(path), *([path] if itself else [])]:
            if other in self.entries and other not in new:
                if not any(one.startswith(f"{other}/") for one in new):
                    del self.entries[other]
                elif other == path:
                    self.entries[other] = (stat.S_IFDIR | 0o755, b"")


def tree_of(layers: list[list[Entry]]) -> Tree:
    tree = Tree()
    for entries in layers:
        apply_layer(tree, layer(*entries), "oci")
    return tree


def list_files(tree: Tree) -> Found:
    return {
        path: (node.mode, node.target.encode() if node.is_link else node.read(100))
        if not node.is_directory
        else (node.mode, b"")
        for path, node in tree.walk()
    }


def write_archive(tree: Tree) -> bytes:
    buffer = io.BytesIO()
    write_tree(tree, buffer)
    return buffer.getvalue()


_paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join)
_modes = st.sampled_from([0o644, 0o755, 0o4711, 0o1777])
# Links lead nowhere and nothing is put through them: that has tests of its own.
_entries = st.one_of(
    st.builds(file, _paths, st.binary(min_size=1, max_size=9), _modes),
    st.builds(directory, _paths, _modes),
    st.builds(symlink, _paths, st.just("nowhere")),
    _paths.map(lambda path: file("/.wh.".join(("/" + path).rsplit("/", 1)).lstrip("/"))),
    _paths.map(lambda path: file(f"{path}/.wh..wh..opq")),
    st.just(file(".wh..wh..opq")),
)
_layers = st.lists(st.lists(_entries, max_size=8), min_size=1, max_size=4)


@given(_layers)
def test_layers_give_what_the_model_gives(layers: list[list[Entry]]) -> None:
    model = Model()
    try:
        for entries in layers:
            model.apply(entries)
    except ImageError:
        assume(False)
    through_link = any(
        other.startswith(f"{path}/")
        for entries in layers
        for path in [entry.name for entry in entries if entry.type == b"2"]
        for other in [entry.name for each in layers for entry in each]
    )
    assume(not through_link)

    assert list_files(tree_of(layers)) == model.entries


@share(2)
@given(_layers)
def test_the_same_layers_give_the_same_archive(layers: list[list[Entry]]) -> None:
    with suppress(ImageError):
        assert write_archive(tree_of(layers)) == write_archive(tree_of(layers))


@share(2)
@given(_layers, st.permutations(range(8)))
def test_entries_of_different_paths_may_come_in_any_order(
    layers: list[list[Entry]], order: list[int]
) -> None:
    files = [
        [entry for entry in entries if entry.type == b"0" and ".wh." not in entry.name]
        for entries in layers
    ]
    files = [list({entry.name: entry for entry in entries}.values()) for entries in files]
    shuffled = [[entries[index] for index in order if index < len(entries)] for entries in files]

    with suppress(ImageError):
        assert write_archive(tree_of(files)) == write_archive(tree_of(shuffled))


_ARCHIVES = [
    *(sparse_bytes(style) for style in SPARSE_STYLES),
    tar_bytes(
        directory("a"),
        file("a/" + "n" * 120, b"x" * 700),
        symlink("s", "a"),
        hardlink("s/h", "a/" + "n" * 120),
        file("a/.wh.x"),
        Entry("d", b"3", device=(1, 3)),
    ),
    pax_header(("path", "p" * 300), ("SCHILY.xattr.user.x", "1"))
    + raw_header(b"short", b"0", 0)
    + pax_header(("comment", "x"), kind=b"g")
    + raw_header(b"L", b"L", 200)
    + b"l" * 200
    + bytes(312)
    + raw_header(b"last", b"0", 0),
]
_changes = st.lists(
    st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4
)


@given(st.sampled_from(_ARCHIVES), _changes, st.booleans(), st.sampled_from(["oci", "deb"]))
def test_a_changed_archive_gives_a_tree_below_the_root_or_an_image_error(
    archive: bytes, changes: list[tuple[int, bytes]], repaired: bool, dialect: str
) -> None:
    data = bytearray(archive)
    for place, noise in changes:
        data[place : place + len(noise)] = noise
    tree = Tree()

    try:
        for _ in range(2):
            apply_layer(
                tree,
                spool(with_checksums(bytes(data)) if repaired else bytes(data)),
                "deb" if dialect == "deb" else "oci",
            )
        paths = [path for path, _ in tree.walk()]
    except ImageError:
        return

    assert not any({"", ".", ".."} & set(path.split("/")) for path in paths)


_PACKED = {"gzip": gzip.compress(_ARCHIVES[4]) * 2, "zstd": zstd_bytes(_ARCHIVES[4]) * 2}


@given(st.sampled_from(sorted(_PACKED)), _changes, st.sampled_from([1, 100, 1 << 20]))
def test_a_changed_stream_gives_bounded_bytes_or_damage(
    name: str, changes: list[tuple[int, bytes]], size: int
) -> None:
    data = bytearray(_PACKED[name])
    for place, noise in changes:
        at = place % len(data)
        data[at : at + len(noise)] = noise
    reader = READERS[name](io.BytesIO(bytes(data)))

    with suppress(DamagedStream):
        while out := reader.read(size):
            assert len(out) <= size
