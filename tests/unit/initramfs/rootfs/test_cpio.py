from __future__ import annotations

import io
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.disk.spool import Extent
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.sparse_file import SparseFile
from slipway_initramfs.rootfs.tree import Tree
from support.layers import spool
from support.newc import unpack

if TYPE_CHECKING:
    from pathlib import Path


def sample() -> Tree:
    tree = Tree()
    tree.add_directory("dir", 0o1777)
    tree.add_file("dir/setuid", b"program", 0o4755, (0, 42))
    tree.add_file("dir/empty", b"")
    tree.add_hardlink("dir/second", "dir/setuid")
    tree.add_symlink("link", "dir/setuid")
    tree.add_device("null", "c", (1, 3), 0o666)
    tree.add_file("ä", b"umlaut")
    tree.add_file("last", b"sentinel")
    return tree


def archive(tree: Tree, *last: str) -> bytes:
    buffer = io.BytesIO()
    length = write_tree(tree, buffer, last)
    assert length == len(buffer.getvalue())
    return buffer.getvalue()


def entries(data: bytes) -> list[tuple[str, list[int], bytes]]:
    """Read newc by the letter of buffer-format.rst."""
    found: list[tuple[str, list[int], bytes]] = []
    offset = 0
    while True:
        assert data[offset : offset + 6] == b"070701"
        fields = [int(data[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
        name = data[offset + 110 : offset + 110 + fields[11] - 1].decode()
        offset += -(-(110 + fields[11]) // 4) * 4
        content = data[offset : offset + fields[6]]
        offset += -(-fields[6] // 4) * 4
        if name == "TRAILER!!!":
            assert not data[offset:].strip(b"\0")
            return found
        found.append((name, fields, content))


def test_the_same_tree_gives_the_same_bytes() -> None:
    assert archive(sample()) == archive(sample())


def test_the_archive_is_padded_to_whole_blocks() -> None:
    assert len(archive(sample())) % 512 == 0


def test_entries_are_sorted_and_the_sentinel_is_last() -> None:
    names = [name for name, _, _ in entries(archive(sample(), "dir/empty"))]

    assert names == ["dir", "dir/second", "dir/setuid", "last", "link", "null", "ä", "dir/empty"]


def test_a_hard_linked_file_is_written_once_with_one_inode() -> None:
    found = {name: (fields, data) for name, fields, data in entries(archive(sample()))}
    first, second = found["dir/second"], found["dir/setuid"]

    assert first[0][0] == second[0][0]
    assert (first[0][4], second[0][4]) == (2, 2)
    assert (first[1], second[1]) == (b"program", b"")


def test_inodes_of_different_files_differ() -> None:
    inodes = [fields[0] for name, fields, _ in entries(archive(sample())) if name != "dir/second"]

    assert len(set(inodes)) == len(inodes)


def test_no_times_and_no_device_numbers_of_the_building_machine() -> None:
    assert all(
        fields[5] == fields[7] == fields[8] == 0 for _, fields, _ in entries(archive(sample()))
    )


@pytest.mark.debian("cpio")
def test_cpio_lists_the_written_entries() -> None:
    done = subprocess.run(
        ["cpio", "-itv", "--quiet", "--numeric-uid-gid"],
        input=archive(sample()),
        capture_output=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.decode().splitlines()]

    modes = {line[8] if line[0][0] not in "c" else line[9]: line[0] for line in lines}
    assert modes["dir"] == "drwxrwxrwt"
    assert modes["dir/setuid"] == "-rwsr-xr-x"
    assert modes["null"] == "crw-rw-rw-"
    assert modes["link"] == "lrwxrwxrwx"


@pytest.mark.debian("cpio")
def test_cpio_unpacks_contents_and_hard_links(tmp_path: Path) -> None:
    tree = sample()
    tree.remove(["null"])  # making a device takes root

    subprocess.run(
        ["cpio", "-idm", "--quiet", "--no-preserve-owner"],
        input=archive(tree),
        cwd=tmp_path,
        check=True,
    )

    assert (tmp_path / "link").read_bytes() == b"program"
    assert (tmp_path / "dir/second").stat().st_ino == (tmp_path / "dir/setuid").stat().st_ino
    assert (tmp_path / "ä").read_bytes() == b"umlaut"


_names = st.text(
    st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name not in (".", "..", "TRAILER!!!"))


@given(st.dictionaries(_names, st.binary(max_size=50), max_size=8), st.sets(_names, max_size=4))
def test_any_tree_survives_a_round_trip(contents: dict[str, bytes], links: set[str]) -> None:
    tree = Tree()
    for name, data in contents.items():
        tree.add_file(f"dir/{name}", data, 0o640)
    for name in links:
        tree.add_symlink(name, f"dir/{name}")

    found = unpack(archive(tree))

    expected: dict[str, tuple[int, bytes]] = {}
    for path, node in tree.walk():
        data = node.target.encode() if node.is_link else node.read(100)
        expected[path] = (node.mode, data)
    assert list(found.items()) == list(expected.items())


def test_holes_are_written_as_zeros() -> None:
    spooled = spool(b"beginend")
    tree = Tree()
    tree.add_file(
        "a", SparseFile(3_000_009, ((7, Extent(spooled, 0, 5)), (99, Extent(spooled, 5, 3))))
    )

    (_, _, data) = entries(archive(tree))[0]

    assert data == bytes(7) + b"begin" + bytes(87) + b"end" + bytes(3_000_009 - 102)
