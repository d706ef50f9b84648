from __future__ import annotations

import pytest

from slipway_initramfs.disk.spool import Extent, Spool
from slipway_initramfs.errors import ImageError
from slipway_initramfs.rootfs import tree as tree_module
from slipway_initramfs.rootfs.paths import MAX_PATH
from slipway_initramfs.rootfs.sparse_file import SparseFile
from slipway_initramfs.rootfs.tree import MAX_DEVICES, Tree


def paths(tree: Tree) -> list[str]:
    return [path for path, _ in tree.walk()]


def test_walk_gives_parents_first_and_names_in_the_order_of_their_bytes() -> None:
    tree = Tree()
    for path in ("b/x", "a-b", "a/z", "Z", "ä"):
        tree.add_file(path, b"")

    assert paths(tree) == ["Z", "a", "a/z", "a-b", "b", "b/x", "ä"]


def test_a_symlink_to_an_absolute_path_is_followed_inside_the_root() -> None:
    tree = Tree()
    tree.add_symlink("etc/link", "/opt/real")

    tree.add_file("etc/link/file", b"x")

    assert "opt/real/file" in paths(tree)


def test_a_symlink_that_climbs_above_the_root_stays_inside() -> None:
    tree = Tree()
    tree.add_symlink("a/up", "../../../../outside")

    tree.add_file("a/up/file", b"x")

    assert "outside/file" in paths(tree)


def test_a_loop_of_symlinks_is_an_error() -> None:
    tree = Tree()
    tree.add_symlink("a", "b")
    tree.add_symlink("b", "a")

    with pytest.raises(ImageError, match="too many levels of symbolic links"):
        tree.add_file("a/file", b"")


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a/..", "x\0y", "TRAILER!!!", "a/" * MAX_PATH, "n" * 256],
)
def test_paths_that_no_root_may_hold_are_refused(path: str) -> None:
    with pytest.raises(ImageError):
        Tree().add_file(path, b"")


def test_a_nested_file_may_be_called_like_the_trailer() -> None:
    tree = Tree()

    tree.add_file("a/TRAILER!!!", b"")

    assert "a/TRAILER!!!" in paths(tree)


def test_a_file_where_a_directory_is_needed_is_an_error() -> None:
    tree = Tree()
    tree.add_file("a", b"")

    with pytest.raises(ImageError, match="not a directory"):
        tree.add_file("a/b", b"")


def test_a_directory_over_a_directory_keeps_its_entries() -> None:
    tree = Tree()
    tree.add_file("a/b", b"")

    tree.add_directory("a", 0o700)

    node = tree.find("a")
    assert node is not None
    assert (node.mode & 0o7777, list(node.children)) == (0o700, ["b"])


def test_too_many_devices_are_refused() -> None:
    tree = Tree()
    for number in range(MAX_DEVICES):
        tree.add_device(f"dev/{number}", "c", (1, 3))

    with pytest.raises(ImageError, match="device nodes"):
        tree.add_device("dev/more", "c", (1, 3))


@pytest.mark.parametrize("device", [(-1, 0), (0, -1), (1 << 12, 0), (0, 1 << 20)])
def test_impossible_device_numbers_are_refused(device: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="invalid number"):
        Tree().add_device("dev/x", "b", device)


@pytest.mark.parametrize("target", ["", "x" * (MAX_PATH + 1), "a\0b"])
def test_impossible_link_targets_are_refused(target: str) -> None:
    with pytest.raises(ImageError):
        Tree().add_symlink("a", target)


def test_a_hard_link_to_a_missing_file_or_a_directory_is_refused() -> None:
    tree = Tree()
    tree.add_directory("dir")

    for existing in ("dir", "none"):
        with pytest.raises(ImageError, match="hard link"):
            tree.add_hardlink("b", existing)


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("usr/share/doc", ["usr/share/man/x", "usr/lib/a.so", "usr/lib/deep/test/t"]),
        ("usr/share/{doc,man}", ["usr/lib/a.so", "usr/lib/deep/test/t"]),
        (
            "usr/lib/*.so",
            ["usr/share/doc/a", "usr/share/man/x", "usr/lib/deep/test/t"],
        ),
        ("usr/**/test", ["usr/share/doc/a", "usr/share/man/x", "usr/lib/a.so"]),
        ("usr/lib/**", ["usr/share/doc/a", "usr/share/man/x"]),
        ("**/{a,x}", ["usr/lib/a.so", "usr/lib/deep/test/t"]),
        ("usr/{li*,sh*}/{*.so,doc}", ["usr/share/man/x", "usr/lib/deep/test/t"]),
        ("usr/li*/.so", None),
        ("nothing", None),
    ],
)
def test_remove_takes_only_matching_paths(glob: str, left: list[str] | None) -> None:
    tree = Tree()
    everything = ["usr/share/doc/a", "usr/share/man/x", "usr/lib/a.so", "usr/lib/deep/test/t"]
    for path in everything:
        tree.add_file(path, b"12345")

    removed = tree.remove([glob])

    files = [path for path, node in tree.walk() if node.is_file]
    expected = everything if left is None else left
    assert sorted(files) == sorted(expected)
    assert removed.size == 5 * (len(everything) - len(expected))


def test_paths_that_are_too_many_for_their_length_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tree_module, "MAX_NAMES", 1 << 20)
    tree = Tree()
    deep = "n" * 200 + "/" + "m" * 200
    for number in range(3000):
        tree.add_file(f"{deep}/{number}", b"")

    with pytest.raises(ImageError, match="more than 1 MiB"):
        list(tree.walk())


def test_names_are_new_to_the_layer_that_put_them() -> None:
    tree = Tree()
    tree.add_file("old", b"")

    tree.begin_layer()
    tree.add_hardlink("new", "old")

    assert [tree.is_new(tree.root, name) for name in ("old", "new")] == [False, True]


def test_usage_counts_a_hard_linked_file_once_and_memory_in_pages() -> None:
    tree = Tree()
    tree.add_file("a", b"x" * 5000)
    tree.add_hardlink("b", "a")

    usage = tree.usage()

    assert (usage.files, usage.size, usage.memory) == (2, 5000, 2 * 1024 + 8192)


def test_targets_of_links_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_NAMES", 100)
    tree = Tree()
    tree.add_symlink("a", "x" * 60)

    with pytest.raises(ImageError, match="targets of all links"):
        tree.add_symlink("b", "x" * 60)


def test_pieces_of_sparse_files_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_PIECES", 3)
    holey = SparseFile(30, ((0, Extent(Spool(), 0, 1)), (20, Extent(Spool(), 0, 1))))
    tree = Tree()
    tree.add_file("a", holey)

    with pytest.raises(ImageError, match="sparse files"):
        tree.add_file("b", holey)
