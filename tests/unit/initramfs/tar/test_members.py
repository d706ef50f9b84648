from __future__ import annotations

import io
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway_initramfs.errors import ImageError
from slipway_initramfs.tar import headers
from slipway_initramfs.tar import members as tar
from slipway_initramfs.tar.members import Member, read_members
from support.host_programs import need_program
from support.layers import (
    SPARSE_CONTENT,
    SPARSE_STYLES,
    Entry,
    file,
    pad_block,
    pax_header,
    raw_header,
    sparse_bytes,
    spool,
    tar_bytes,
)

if TYPE_CHECKING:
    from pathlib import Path

END = bytes(1024)


def members(data: bytes) -> list[Member]:
    return list(read_members(spool(data)))


def only(data: bytes) -> Member:
    (member,) = members(data)
    return member


def test_an_entry_has_name_type_mode_owner_and_position() -> None:
    member = only(tar_bytes(Entry("a/b", data=b"12345", mode=0o4755, owner=(7, 8))))

    assert (member.name, member.kind, member.mode, member.owner) == ("a/b", b"0", 0o4755, (7, 8))
    assert (member.offset, member.size) == (512, 5)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_large_numbers_of_each_format_are_read(format: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        info = tarfile.TarInfo("d/" * 90 + "name-ä")
        info.type, info.linkname = tarfile.SYMTYPE, "target/" * 40
        info.uid = info.gid = 3_000_000
        archive.addfile(info)

    member = only(buffer.getvalue())

    assert (member.name, member.link) == ("d/" * 90 + "name-ä", "target/" * 40)
    assert member.owner == (3_000_000, 3_000_000)


def test_a_name_is_in_two_parts_in_ustar() -> None:
    member = only(raw_header(b"name", b"0", 0, at_345=b"some/where") + END)

    assert member.name == "some/where/name"


def test_gnu_fields_in_place_of_the_prefix_are_not_part_of_a_name() -> None:
    member = only(raw_header(b"name", b"0", 0, at_257=b"ustar  \0", at_345=b"00000000001") + END)

    assert member.name == "name"


def test_an_old_directory_is_a_file_with_a_slash() -> None:
    assert only(raw_header(b"d/", b"\0", 0, at_257=bytes(8)) + END).kind == tar.DIRECTORY


@pytest.mark.parametrize("kind", [b"\0", b"7"])
def test_all_sorts_of_regular_files_are_files(kind: bytes) -> None:
    assert only(raw_header(b"a", kind, 0) + END).kind == tar.FILE


def test_names_need_not_be_text() -> None:
    assert only(raw_header(b"a\xff", b"0", 0) + END).name == "a\udcff"


def test_a_checksum_of_signed_bytes_counts_as_well() -> None:
    header = bytearray(raw_header(b"a\xff\xfe", b"0", 0))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % (sum(header) - 2 * 256)

    assert only(bytes(header) + END).name == "a\udcff\udcfe"


def test_links_and_directories_have_no_data_despite_a_size() -> None:
    data = raw_header(b"d", b"5", 4096) + raw_header(b"a", b"0", 0) + END

    assert [(member.name, member.size) for member in members(data)] == [("d", 0), ("a", 0)]


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(100), bytes(512) + b"junk"])
def test_an_archive_ends_with_zeros_or_with_the_file(end: bytes) -> None:
    assert only(raw_header(b"a", b"0", 3) + pad_block(b"abc") + end).name == "a"


def test_pax_records_count_more_than_the_header() -> None:
    records = [
        ("path", "long"),
        ("size", "3"),
        ("uid", "70000"),
        ("gid", "80000"),
        ("mtime", "1.5"),
    ]
    member = only(pax_header(*records) + raw_header(b"short", b"0", 0) + pad_block(b"abc") + END)

    assert (member.name, member.size, member.owner) == ("long", 3, (70000, 80000))


def test_an_empty_pax_record_takes_an_earlier_one_back() -> None:
    data = pax_header(("path", "long"), ("path", "")) + raw_header(b"short", b"0", 0) + END

    assert only(data).name == "short"


def test_pax_records_may_hold_newlines_and_equals_signs() -> None:
    assert only(pax_header(("path", "a\nb=c")) + raw_header(b"x", b"0", 0) + END).name == "a\nb=c"


def test_harmless_global_records_are_ignored() -> None:
    data = pax_header(("comment", "of git"), kind=b"g")

    assert members(data + END) == []
    assert only(data + raw_header(b"a", b"0", 0) + END).name == "a"


@pytest.mark.parametrize("key", ["path", "size", "uid", "linkpath", "GNU.sparse.size"])
def test_global_records_that_programs_understand_differently_are_refused(key: str) -> None:
    with pytest.raises(ImageError, match=f"global header sets '{key}'"):
        members(pax_header((key, "1"), kind=b"g") + raw_header(b"a", b"0", 0) + END)


def test_extended_attributes_are_named() -> None:
    records = [("SCHILY.xattr.user.b", "1"), ("SCHILY.xattr.security.capability", "\0\1")]
    records += [("LIBARCHIVE.xattr.user.b", "MQ")]
    member = only(pax_header(*records) + raw_header(b"a", b"0", 0) + END)

    assert member.xattrs == ("security.capability", "user.b")


@pytest.mark.parametrize("style", SPARSE_STYLES)
def test_the_map_of_a_sparse_file_is_read_in_each_format(style: str) -> None:
    data = sparse_bytes(style)

    member = only(data)

    assert (member.name, member.kind) == ("sparse", tar.FILE)
    assert (member.segments, member.real_size) == (((1000, 5), (6005, 3)), len(SPARSE_CONTENT))
    assert data[member.offset : member.offset + member.size] == b"beginend"


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=pax", f"--sparse-version={n}"] for n in ("0.0", "0.1", "1.0"))],
)
def test_sparse_files_of_gnu_tar_with_many_holes_are_read(
    options: list[str], tmp_path: Path
) -> None:
    with (tmp_path / "f").open("wb") as holed:
        for number in range(60):
            holed.seek(number * (64 << 10))
            holed.write(b"%04d" % number * 1024)
        holed.truncate(10 << 20)
    done = subprocess.run(
        [need_program("tar"), "-c", "--sparse", *options, "f"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )

    member = only(done.stdout)

    assert (member.name, member.real_size) == ("f", 10 << 20)
    content = bytearray(member.real_size)
    position = member.offset
    for offset, size in member.segments or ():
        content[offset : offset + size] = done.stdout[position : position + size]
        position += size
    assert content == (tmp_path / "f").read_bytes()


def sparse_by_map(sparse_map: str, size: str, data: bytes = b"") -> bytes:
    records = [("GNU.sparse.map", sparse_map), ("GNU.sparse.size", size)]
    return pax_header(*records) + raw_header(b"a", b"0", len(data)) + pad_block(data) + END


@pytest.mark.parametrize(
    "data",
    [
        sparse_by_map("0,1", "10", b"ab"),  # more data than the map has
        sparse_by_map("0,4", "10", b"ab"),
        sparse_by_map("0,2,1,1", "10", b"abc"),  # pieces that overlap
        sparse_by_map("5,1,0,1", "10", b"ab"),
        sparse_by_map("9,2", "10", b"ab"),  # beyond the end
        sparse_by_map("0,1,2", "10", b"a"),
        sparse_by_map("0,-1", "10"),
        sparse_by_map("0,x", "10"),
        sparse_by_map("0,0", "x"),
        sparse_by_map(",".join(["0,0"] * ((1 << 16) + 1)), "10"),
        pax_header(("GNU.sparse.map", "0,0")) + raw_header(b"a", b"0", 0) + END,
        pax_header(("GNU.sparse.major", "2"), ("GNU.sparse.realsize", "0"))
        + raw_header(b"a", b"0", 0)
        + END,
        pax_header(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "0"))
        + raw_header(b"a", b"0", 0)
        + END,
        pax_header(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "0"))
        + raw_header(b"a", b"0", 512)
        + pad_block(b"99999\n0\n0\n")
        + END,
        raw_header(b"a", b"S", 0, at_482=b"\1"),  # the map goes on, but the archive does not
        raw_header(b"a", b"S", 0, at_386=b"x" * 24),
    ],
)
def test_a_sparse_map_that_makes_no_sense_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        members(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (raw_header(b"a", b"0", 600) + pad_block(b"x"), "truncated"),
        (raw_header(b"a", b"0", 0)[:300], "truncated"),
        (raw_header(b"a", b"0", 0, at_124=b"\xff" * 12), "not a valid size"),
        (raw_header(b"a", b"0", 0, at_124=b"0x10       \0"), "not a valid size"),
        (raw_header(b"a", b"0", 0, at_124=b"1_0        \0"), "not a valid size"),
        (raw_header(b"a", b"0", 0, at_124=b"-10        \0"), "not a valid size"),
        (raw_header(b"a", b"0", 0, at_124=b"\x80" + b"\xff" * 11), "truncated"),
        (raw_header(b"a", b"0", 0, at_108=b"9999999\0"), "not a valid owner"),
        (raw_header(b"x", b"x", 1 << 30) + END, "header of"),
        (raw_header(b"x", b"L", 2000) + END, "extended header is truncated"),
        (pax_header(("path", "a")) + END, "ends after an extended header"),
        (pax_header(("path", "a")) * 9 + raw_header(b"a", b"0", 0), "too many extended"),
        (raw_header(b"x", b"x", 6) + pad_block(b"99 a=b"), "damaged pax"),
        (raw_header(b"x", b"x", 6) + pad_block(b"6 a=bc"), "damaged pax"),
        (raw_header(b"x", b"x", 6) + pad_block(b"3 a=b\n"), "damaged pax"),
        (raw_header(b"x", b"x", 6) + pad_block(b"junk!\n"), "damaged pax"),
        (pax_header(("size", "-1")) + raw_header(b"a", b"0", 0), "not a valid size"),
        (pax_header(("size", "9" * 30)) + raw_header(b"a", b"0", 0), "not a valid size"),
        (pax_header(("size", "9999")) + raw_header(b"a", b"0", 0), "truncated"),
        (pax_header(("uid", "٣")) + raw_header(b"a", b"0", 0), "not a valid uid"),
        (b"junk" * 128, "no valid header at offset 0"),
    ],
)
def test_an_invalid_archive_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        members(data)


@pytest.mark.parametrize(
    "data",
    [
        pax_header(*[("a", "1")] * 30) + raw_header(b"a", b"0", 0),
        pax_header(*[("comment", "1")] * 30, kind=b"g") + raw_header(b"a", b"0", 0),
        sparse_by_map(",".join(["0,0"] * 20), "10"),
        raw_header(b"a", b"S", 0, at_482=b"\1") + (bytes(504) + b"\1" + bytes(7)) * 9,
        sparse_bytes("1.0")[:-1024] * 5,
    ],
)
def test_an_archive_of_details_ends(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_DETAILS", 25)

    with pytest.raises(ImageError, match="more than 25 records"):
        members(data)


_names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1)
_entries = st.builds(
    Entry,
    name=st.lists(_names, min_size=1, max_size=4).map("/".join),
    data=st.binary(max_size=1200),
    mode=st.integers(0, 0o7777),
    owner=st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, 70000)),
)


@given(st.lists(_entries, max_size=6))
def test_entries_are_those_that_tarfile_has_written(entries: list[Entry]) -> None:
    data = tar_bytes(*entries)

    assert [
        (m.name, m.mode, m.owner, data[m.offset : m.offset + m.size]) for m in members(data)
    ] == [(entry.name, entry.mode, entry.owner, entry.data) for entry in entries]


def test_a_file_is_found_after_one_of_any_length() -> None:
    for size in (0, 1, 511, 512, 513):
        found = members(tar_bytes(file("a", b"x" * size), file("b", b"y")))

        assert [member.name for member in found] == ["a", "b"]
