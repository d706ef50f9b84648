from __future__ import annotations

import tarfile
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slipway_initramfs.disk.spool import Extent
from slipway_initramfs.errors import ImageError
from slipway_initramfs.rootfs import layers
from slipway_initramfs.rootfs import tree as tree_module
from slipway_initramfs.rootfs.layers import LayerReport, apply_layer
from slipway_initramfs.rootfs.tree import Tree
from support.layers import (
    SPARSE_CONTENT,
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
)


def apply_layers(*contents: list[Entry], dialect: str = "oci") -> Tree:
    tree = Tree()
    for entries in contents:
        apply_layer(tree, layer(*entries), "deb" if dialect == "deb" else "oci")
    return tree


def files(tree: Tree) -> dict[str, bytes]:
    return {path: node.read(1 << 20) for path, node in tree.walk() if node.is_file}


def test_modes_owners_and_contents_come_through() -> None:
    tree = apply_layers([Entry("usr/bin/su", data=b"ELF", mode=0o4755, owner=(0, 42))])

    node = tree.find("usr/bin/su")
    assert node is not None
    assert (node.mode & 0o7777, node.owner, node.read(10)) == (0o4755, (0, 42), b"ELF")


def test_large_contents_stay_in_the_spool() -> None:
    tree = apply_layers([file("big", b"x" * 3_000_000)])

    node = tree.find("big")
    assert node is not None
    assert isinstance(node.content, Extent)
    assert sum(len(chunk) for chunk in node.chunks()) == 3_000_000


def test_a_later_layer_replaces_a_file() -> None:
    assert files(apply_layers([file("a", b"1")], [file("a", b"2")])) == {"a": b"2"}


def test_a_whiteout_removes_entries_of_lower_layers() -> None:
    tree = apply_layers([file("d/a"), file("d/b"), file("e/x")], [file("d/.wh.a"), file(".wh.e")])

    assert list(files(tree)) == ["d/b"]


def test_a_whiteout_spares_entries_of_its_own_layer() -> None:
    tree = apply_layers([file("d/old")], [file("d/new"), file(".wh.d")])

    assert list(files(tree)) == ["d/new"]


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_an_opaque_directory_hides_lower_layers_only(whiteout_first: bool) -> None:
    upper = [file("d/.wh..wh..opq"), file("d/sub/new")]
    tree = apply_layers(
        [file("d/old"), file("d/sub/old")], upper if whiteout_first else list(reversed(upper))
    )

    assert list(files(tree)) == ["d/sub/new"]


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_directory_that_is_taken_away_and_brought_again_is_a_new_one(
    whiteout_first: bool,
) -> None:
    upper = [file(".wh.d"), file("d/new")]
    tree = apply_layers(
        [directory("d", 0o700), file("d/old"), directory("d/sub")],
        upper if whiteout_first else list(reversed(upper)),
    )

    node = tree.find("d")
    assert node is not None
    assert (list(files(tree)), node.mode & 0o7777) == (["d/new"], 0o755)


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_file_that_is_taken_away_and_brought_again_is_there(whiteout_first: bool) -> None:
    upper = [file("d/.wh.a"), file("d/a", b"new")]
    tree = apply_layers(
        [file("d/a/old")],
        upper if whiteout_first else list(reversed(upper)),
    )

    assert files(tree) == {"d/a": b"new"}


def test_a_whiteout_of_a_missing_entry_has_no_effect() -> None:
    tree = apply_layers([file("a")], [file(".wh.b"), file("no/such/.wh.c"), file("a/.wh.d")])

    assert list(files(tree)) == ["a"]


def test_a_whiteout_is_followed_through_links_inside_the_root() -> None:
    tree = apply_layers([file("usr/lib/a"), symlink("lib", "/usr/lib")], [file("lib/.wh.a")])

    assert list(files(tree)) == []


def test_a_whiteout_of_a_link_keeps_its_target() -> None:
    tree = apply_layers([file("usr/lib/a"), symlink("lib", "usr/lib")], [file(".wh.lib")])

    assert [path for path, _ in tree.walk()] == ["usr", "usr/lib", "usr/lib/a"]


def test_an_opaque_root_hides_all_lower_layers() -> None:
    tree = apply_layers([file("a"), file("d/b")], [file("new")], [file("c"), file(".wh..wh..opq")])

    assert list(files(tree)) == ["c"]


def test_other_marks_of_aufs_are_no_files() -> None:
    assert list(files(apply_layers([file(".wh..wh.plnk"), file("a")]))) == ["a"]


def test_a_link_to_an_older_file_does_not_save_its_old_name() -> None:
    tree = apply_layers([file("a", b"1")], [hardlink("b", "a"), file(".wh.a")])

    assert files(tree) == {"b": b"1"}


def test_a_new_file_keeps_other_names_of_the_old_file() -> None:
    tree = apply_layers([file("a", b"1"), hardlink("b", "a")], [file("a", b"2")])

    assert files(tree) == {"a": b"2", "b": b"1"}


def test_a_hard_link_is_found_through_links_inside_the_root() -> None:
    tree = apply_layers(
        [file("usr/lib/a", b"1"), symlink("lib", "/usr/lib")], [hardlink("b", "lib/a")]
    )

    assert tree.find("b") is tree.find("usr/lib/a")


def test_a_link_replaces_a_directory_with_all_that_is_in_it() -> None:
    tree = apply_layers([file("lib/a"), file("usr/lib/b")], [symlink("lib", "usr/lib")])

    assert list(files(tree)) == ["usr/lib/b"]


def test_of_equal_entries_the_last_one_counts() -> None:
    tree = apply_layers([file("a", b"1"), directory("a"), file("a/b"), file("a", b"2")])

    assert files(tree) == {"a": b"2"}


def test_a_name_may_begin_with_the_current_directory() -> None:
    tree = apply_layers([directory("./"), file("./a/./b"), hardlink("./c", "./a/b")])

    assert list(files(tree)) == ["a/b", "c"]


def test_the_entry_of_the_root_sets_its_mode_and_owner() -> None:
    tree = apply_layers([Entry("./", b"5", mode=0o700, owner=(1, 2))])

    assert (tree.root.mode & 0o7777, tree.root.owner) == (0o700, (1, 2))


def test_devices_and_pipes_come_through() -> None:
    tree = apply_layers([Entry("null", b"3", mode=0o666, device=(1, 3)), Entry("p", b"6")])

    null, pipe = tree.find("null"), tree.find("p")
    assert null is not None
    assert pipe is not None
    assert (null.mode, null.device) == (0o020666, (1, 3))
    assert pipe.mode == 0o010644


@pytest.mark.parametrize("style", SPARSE_STYLES)
def test_holes_of_sparse_files_are_zeros(style: str) -> None:
    tree = Tree()

    apply_layer(tree, spool(sparse_bytes(style)), "oci")

    assert files(tree) == {"sparse": SPARSE_CONTENT}


@pytest.mark.parametrize(("size", "said"), [(1 << 31, "of holes"), (1 << 32, "4 GiB")])
def test_sparse_files_with_more_holes_than_memory_are_refused(size: int, said: str) -> None:
    records = [("GNU.sparse.map", "0,0"), ("GNU.sparse.size", str(size))]
    data = pax_header(*records) + raw_header(b"a", b"0", 0)

    with pytest.raises(ImageError, match=said):
        apply_layer(Tree(), spool(data), "oci")


def test_extended_attributes_are_reported_as_dropped() -> None:
    records = [("SCHILY.xattr.user.x", "1"), ("SCHILY.xattr.security.capability", "cap")]
    data = pax_header(*records) + raw_header(b"a", b"0", 0)
    data += pax_header(records[0]) + raw_header(b"b", b"0", 0)

    report = apply_layer(Tree(), spool(data), "oci")

    assert report == LayerReport(3, ("security.capability", "user.x"))


def test_a_report_names_a_few_attributes_only() -> None:
    data = b"".join(
        pax_header((f"SCHILY.xattr.user.{number}" + "x" * 999, "1")) + raw_header(b"a", b"0", 0)
        for number in range(100)
    )

    report = apply_layer(Tree(), spool(data), "oci")

    assert (report.dropped_xattrs, len(report.xattr_names)) == (100, 16)
    assert max(map(len, report.xattr_names)) <= 80


def test_more_entries_than_any_layer_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "MAX_ENTRIES", 10)

    with pytest.raises(ImageError, match="more than 10 entries"):
        apply_layers([file(".wh.a")] * 11)


def test_links_that_lead_a_long_way_round_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_STEPS", 10_000)
    around = [directory("a"), symlink("l", "a/../" * 500 + "a")]

    with pytest.raises(ImageError, match="too many lookups"):
        apply_layers([*around, *(file(f"l/{number}") for number in range(100))])


def test_links_do_not_make_paths_that_the_kernel_passes_over() -> None:
    deep = "/".join(["n" * 200] * 15)
    tree = apply_layers([directory(deep), symlink("l", deep), file("l/" + deep + "/lost")])

    with pytest.raises(ImageError, match="more than 4095 bytes"):
        list(tree.walk())


def test_repeated_whiteouts_of_a_directory_take_bounded_time() -> None:
    depth = "/".join(["d"] * 1000)
    entries = [file(f"{depth}/{number}") for number in range(500)]
    marks = [file("/".join(["d"] * level) + "/.wh..wh..opq") for level in range(1000, 0, -1)]

    tree = apply_layers([*entries, *marks * 3])

    assert len(files(tree)) == 500


def test_a_package_may_hold_a_file_that_is_named_like_a_whiteout() -> None:
    assert list(files(apply_layers([file("d/.wh.a")], dialect="deb"))) == ["d/.wh.a"]


def test_a_packages_directory_over_a_link_keeps_the_link() -> None:
    tree = Tree()
    tree.add_directory("usr/lib")
    tree.add_symlink("lib", "usr/lib")

    apply_layer(tree, layer(directory("./lib/"), file("./lib/x.so", b"x")), "deb")

    assert files(tree) == {"usr/lib/x.so": b"x"}


def test_an_image_layers_directory_replaces_a_link() -> None:
    tree = apply_layers([directory("usr/lib"), symlink("lib", "usr/lib")], [directory("lib")])

    node = tree.find("lib", follow=False)
    assert node is not None
    assert node.is_directory


def test_a_symlink_never_leads_an_entry_out_of_the_root() -> None:
    tree = apply_layers([symlink("x", "../../../../../../tmp"), file("x/owned", b"1")])

    assert files(tree) == {"tmp/owned": b"1"}


def test_hard_links_share_one_node() -> None:
    tree = apply_layers([file("a", b"1"), hardlink("b", "a")])

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
        apply_layers([Entry(f"d{n}", tarfile.CHRTYPE, device=(1, 3)) for n in range(1025)])


def test_an_archive_cut_short_in_a_file_is_refused() -> None:
    data = tar_bytes(file("a", b"x" * 5000))

    with pytest.raises(ImageError, match=r"truncated|broken"):
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
    contents: list[list[Entry]], dialect: str
) -> None:
    try:
        tree = apply_layers(*contents, dialect=dialect)
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
