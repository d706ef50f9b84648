from __future__ import annotations

import tarfile
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slipway_initramfs.errors import ImageError
from slipway_initramfs.layers import apply_layer
from slipway_initramfs.spool import Extent
from slipway_initramfs.tree import Tree
from support.layers import Entry, directory, file, hardlink, layer, spool, symlink, tar_bytes


def applied(*layers: list[Entry], dialect: str = "oci") -> Tree:
    tree = Tree()
    for entries in layers:
        apply_layer(tree, layer(*entries), "deb" if dialect == "deb" else "oci")
    return tree


def files(tree: Tree) -> dict[str, bytes]:
    return {path: node.read(1 << 20) for path, node in tree.walk() if node.is_file}


def test_modes_owners_and_contents_come_through() -> None:
    tree = applied([Entry("usr/bin/su", data=b"ELF", mode=0o4755, owner=(0, 42))])

    node = tree.find("usr/bin/su")
    assert node is not None
    assert (node.mode & 0o7777, node.owner, node.read(10)) == (0o4755, (0, 42), b"ELF")


def test_large_contents_stay_in_the_spool() -> None:
    tree = applied([file("big", b"x" * 3_000_000)])

    node = tree.find("big")
    assert node is not None
    assert isinstance(node.content, Extent)
    assert sum(len(chunk) for chunk in node.chunks()) == 3_000_000


def test_a_later_layer_replaces_a_file() -> None:
    assert files(applied([file("a", b"1")], [file("a", b"2")])) == {"a": b"2"}


def test_a_whiteout_removes_what_lower_layers_brought() -> None:
    tree = applied([file("d/a"), file("d/b"), file("e/x")], [file("d/.wh.a"), file(".wh.e")])

    assert list(files(tree)) == ["d/b"]


def test_a_whiteout_spares_what_its_own_layer_brings() -> None:
    tree = applied([file("d/old")], [file("d/new"), file(".wh.d")])

    assert list(files(tree)) == ["d/new"]


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_an_opaque_directory_hides_lower_layers_only(whiteout_first: bool) -> None:
    upper = [file("d/.wh..wh..opq"), file("d/sub/new")]
    tree = applied(
        [file("d/old"), file("d/sub/old")], upper if whiteout_first else list(reversed(upper))
    )

    assert list(files(tree)) == ["d/sub/new"]


def test_a_package_may_hold_a_file_that_is_named_like_a_whiteout() -> None:
    assert list(files(applied([file("d/.wh.a")], dialect="deb"))) == ["d/.wh.a"]


def test_a_packages_directory_over_a_link_keeps_the_link() -> None:
    tree = Tree()
    tree.add_directory("usr/lib")
    tree.add_symlink("lib", "usr/lib")

    apply_layer(tree, layer(directory("./lib/"), file("./lib/x.so", b"x")), "deb")

    assert files(tree) == {"usr/lib/x.so": b"x"}


def test_an_image_layers_directory_replaces_a_link() -> None:
    tree = applied([directory("usr/lib"), symlink("lib", "usr/lib")], [directory("lib")])

    node = tree.find("lib", follow=False)
    assert node is not None
    assert node.is_directory


def test_a_symlink_never_leads_an_entry_out_of_the_root() -> None:
    tree = applied([symlink("x", "../../../../../../tmp"), file("x/owned", b"1")])

    assert files(tree) == {"tmp/owned": b"1"}


def test_hard_links_share_one_node() -> None:
    tree = applied([file("a", b"1"), hardlink("b", "a")])

    assert tree.find("a") is tree.find("b")


@pytest.mark.parametrize(
    "entry",
    [
        file("/etc/passwd"),
        file("../up"),
        file("TRAILER!!!"),
        hardlink("a", "/etc/shadow"),
        hardlink("a", "../../etc/shadow"),
        hardlink("a", "missing"),
        symlink("a", ""),
        Entry("dev/x", tarfile.CHRTYPE, device=(1 << 13, 0)),
        Entry("a", owner=(-5, 0)),
        Entry("a", b"D"),
        Entry("a", b"Z"),
        file(".wh."),
        file("d/.wh..."),
    ],
)
def test_entries_that_no_honest_layer_has_are_refused(entry: Entry) -> None:
    tree = Tree()
    tree.add_directory("d")

    if entry.type == b"Z":  # tarfile writes unknown types as it finds them
        assert entry.name == "a"
    with pytest.raises(ImageError):
        apply_layer(tree, layer(entry), "oci")


def test_more_devices_than_any_root_has_are_refused() -> None:
    with pytest.raises(ImageError, match="device nodes"):
        applied([Entry(f"d{n}", tarfile.CHRTYPE, device=(1, 3)) for n in range(1025)])


def test_an_archive_cut_short_in_a_file_is_refused() -> None:
    data = tar_bytes(file("a", b"x" * 5000))

    with pytest.raises(ImageError, match=r"cut short|broken"):
        apply_layer(Tree(), spool(data[:3000]), "oci")


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end() -> None:
    data = bytearray(tar_bytes(file("a", b"x"), file("b", b"y"), file("c", b"z")))
    data[1024 + 148 : 1024 + 154] = b"000000"  # the checksum of the second header

    with pytest.raises(ImageError, match="no valid header"):
        apply_layer(Tree(), spool(bytes(data)), "oci")


def test_an_endless_header_is_refused_without_reading_it() -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 33

    with pytest.raises(ImageError, match="header of"):
        apply_layer(Tree(), spool(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096)), "oci")


def test_a_negative_size_does_not_read_for_ever() -> None:
    first = bytearray(tarfile.TarInfo("a").tobuf(tarfile.GNU_FORMAT))
    first[124:136] = (-1024).to_bytes(12, "big", signed=True)
    first[148:156] = b" " * 8
    first[148:156] = f"{sum(first):06o}\0 ".encode()

    with pytest.raises(ImageError):
        apply_layer(Tree(), spool(bytes(first) * 4), "oci")


_names = st.sampled_from(
    [
        "a",
        "b",
        "a/b",
        "../a",
        "/a",
        "a/../b",
        ".wh.a",
        "a/.wh..wh..opq",
        "x/y/z",
        ".",
        "",
        "ä",
        "\udcff",
    ]
)
_entries = st.builds(
    Entry,
    name=_names,
    type=st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6", b"7"]),
    data=st.binary(max_size=20),
    link=_names,
    mode=st.integers(0, 0o7777),
    owner=st.tuples(st.integers(0, 70000), st.integers(0, 70000)),
    device=st.tuples(st.integers(0, 5000), st.integers(0, 300)),
)


@given(st.lists(st.lists(_entries, max_size=8), max_size=3), st.sampled_from(["oci", "deb"]))
@example([[symlink("a", "/"), file("a/a")]], "oci")
def test_layers_of_any_entries_give_a_tree_or_an_image_error(
    layers: list[list[Entry]], dialect: str
) -> None:
    try:
        tree = applied(*layers, dialect=dialect)
    except ImageError:
        return

    for path, _ in tree.walk():
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))


@given(
    st.integers(0, 5000),
    st.binary(min_size=1, max_size=600),
    st.sampled_from(["oci", "deb"]),
)
def test_bytes_changed_anywhere_in_an_archive_give_a_tree_or_an_image_error(
    offset: int, noise: bytes, dialect: str
) -> None:
    data = bytearray(
        tar_bytes(
            directory("a"),
            file("a/" + "n" * 120, b"x" * 700),
            symlink("s", "a"),
            hardlink("h", "s"),
        )
    )
    data[offset : offset + len(noise)] = noise
    tree = Tree()

    try:
        apply_layer(tree, spool(bytes(data)), "deb" if dialect == "deb" else "oci")
    except ImageError:
        return

    for path, _ in tree.walk():
        assert ".." not in path.split("/")


@given(st.binary(max_size=3000))
def test_any_bytes_are_a_tree_or_an_image_error(data: bytes) -> None:
    with suppress(ImageError):
        apply_layer(Tree(), spool(data), "oci")
