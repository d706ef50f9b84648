"""Export and import of images, and archives that an import refuses."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slipway_initramfs import freeze, image_archive
from slipway_initramfs.errors import DiskFull, ImageCorrupted, ImageError
from slipway_initramfs.image_archive import ArchiveIndex, ArchiveMember
from slipway_initramfs.image_export import export_image
from slipway_initramfs.image_import import ImportResult, import_image
from slipway_initramfs.languages import catalogue
from slipway_initramfs.store import manifests
from slipway_initramfs.store.garbage_collection import prune
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import BUILDER
from support.stores import names, put_agent, put_image, put_kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LANGUAGE = b"""
name = "toy"
suffixes = [".toy"]
source = "main.toy"
run = { command = ["toy", "main.toy"] }
image.debian = { packages = ["toy"] }
"""
FLIPS = 120


def quiet(_: str) -> None:
    pass


def current(name: str, store: ImageStore | None = None) -> dict[str, Any]:
    """Return the fields of a record of this version."""
    recipe = catalogue.find_language(name, store).recipe("debian")
    assert recipe is not None
    return {"builder": BUILDER, "recipe": recipe.as_json()}


def export(store: ImageStore, name: str) -> bytes:
    image = store.image(name, "amd64")
    assert image is not None
    output = io.BytesIO()
    export_image(store, image, put_agent(store), output, quiet)
    return output.getvalue()


@pytest.fixture
def full(store: ImageStore) -> ImageStore:
    put_image(store, "bash", told=current("bash"))
    put_kernel(store)
    return store


@pytest.fixture
def empty(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "empty")


def take_in(store: ImageStore, data: bytes) -> ImportResult:
    return import_image(store, io.BytesIO(data), quiet)


def is_untouched(store: ImageStore) -> bool:
    return not any(path.is_file() and path.stat().st_size for path in store.root.rglob("*"))


# -- what goes round -----------------------------------------------------------------------------


def test_export_and_import_keep_all_files_of_an_image(full: ImageStore, empty: ImageStore) -> None:
    data = export(full, "bash")

    found = take_in(empty, data)

    image, kernel = full.image("bash", "amd64"), full.kernel("amd64")
    assert empty.image("bash", "amd64") is not None
    assert (found.image.digest, found.replaced, found.agent) == (
        image and image.digest,
        False,
        True,
    )
    found.image.verify()
    there = empty.kernel("amd64")
    assert there is not None
    there.verify()
    assert there.digest == (kernel and kernel.digest)
    assert [freeze.freeze_agent(empty, "amd64", quiet, verify=True).path.read_bytes()] == [b"agent"]
    assert export(empty, "bash") == data


def test_an_archive_is_a_plain_tar(full: ImageStore) -> None:
    with tarfile.open(fileobj=io.BytesIO(export(full, "bash"))) as tar:
        members = tar.getmembers()
        index = json.loads(tar.extractfile(members[0]).read())  # type: ignore[union-attr]

    assert [member.name.partition("/")[0] for member in members] == [
        "slipway-image.json", "manifests", "manifests", "blobs", "blobs", "blobs", "blobs",
    ]  # fmt: skip
    assert {(member.mode, member.mtime, member.uid) for member in members} == {(0o644, 0, 0)}
    assert index["format"] == image_archive.FORMAT


def test_an_added_language_travels_with_its_image(full: ImageStore, empty: ImageStore) -> None:
    catalogue.store_language(full, "toy", LANGUAGE)
    put_image(full, "toy@2", told=current("toy", full))

    found = take_in(empty, export(full, "toy@2"))

    assert found.image.name == "toy@2"
    assert catalogue.find_language_by_suffix("x.toy", empty).name == "toy"


def test_an_image_takes_the_place_of_another(full: ImageStore, empty: ImageStore) -> None:
    put_image(empty, "bash", b"other", told=current("bash"))
    data = export(full, "bash")

    first, second = take_in(empty, data), take_in(empty, data)

    assert (first.replaced, second.replaced) == (True, False)
    assert hashlib.sha256(b"other").hexdigest() not in names(empty.root / "blobs")


def test_kernel_and_agent_of_the_store_are_kept(full: ImageStore, empty: ImageStore) -> None:
    put_kernel(empty, version="7", content=b"own")

    take_in(empty, export(full, "bash"))

    kernel = empty.kernel("amd64")
    assert kernel is not None
    assert kernel.version == "7"
    assert hashlib.sha256(b"kernel").hexdigest() not in names(empty.root / "blobs")


def test_kernel_of_another_builder_in_the_store_is_replaced(
    full: ImageStore, empty: ImageStore
) -> None:
    put_kernel(empty, version="7", builder=BUILDER - 1)

    take_in(empty, export(full, "bash"))

    kernel = empty.kernel("amd64")
    assert kernel is not None
    assert kernel.version == "6.1"


def test_a_damaged_kernel_of_the_store_is_replaced(full: ImageStore, empty: ImageStore) -> None:
    data = export(full, "bash")
    take_in(empty, data)
    kernel = empty.kernel("amd64")
    assert kernel is not None
    kernel.path.write_bytes(b"kernex")

    take_in(empty, data)

    kernel.verify()


def test_an_agent_of_other_sources_is_not_taken(full: ImageStore, empty: ImageStore) -> None:
    found = take_in(empty, change_archive(export(full, "bash"), agent_sources="0" * 64))

    assert not found.agent
    assert empty.names("archive-agent") == []
    assert hashlib.sha256(b"agent").hexdigest() not in names(empty.root / "blobs")


def test_a_damaged_image_is_not_exported(full: ImageStore) -> None:
    image = full.image("bash", "amd64")
    assert image is not None
    image.root_archive.write_bytes(b"rOOt archive")

    with pytest.raises(ImageCorrupted):
        export(full, "bash")


# -- what is damaged -----------------------------------------------------------------------------


def test_an_archive_that_is_cut_short_is_refused(full: ImageStore, empty: ImageStore) -> None:
    data = export(full, "bash")

    for size in {*range(0, len(data), 512), *range(1, len(data), 997), len(data) - 1}:
        with pytest.raises(ImageError):
            take_in(empty, data[:size])
        assert is_untouched(empty), size


def test_a_changed_bit_is_detected_anywhere(full: ImageStore, empty: ImageStore) -> None:
    data = export(full, "bash")
    chance = random.Random(13)

    for _ in range(FLIPS):
        at = chance.randrange(len(data))
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        try:
            found = take_in(empty, bytes(flipped))
        except ImageError:
            assert is_untouched(empty), at
        else:
            # Which sources an agent is of is all that nothing else has to fit.
            assert not found.agent, at
            (empty.root / "refs" / "image" / "bash-amd64").unlink()
            (empty.root / "refs" / "kernel" / "amd64").unlink()
            prune(empty)


def test_an_intact_image_survives_an_invalid_import(full: ImageStore, empty: ImageStore) -> None:
    data = export(full, "bash")
    take_in(empty, data)
    before = sorted(path for path in empty.root.rglob("*") if path.is_file())

    with pytest.raises(ImageError):
        take_in(empty, data[: len(data) // 2])

    assert sorted(path for path in empty.root.rglob("*") if path.is_file()) == before


# -- what is hostile -----------------------------------------------------------------------------


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def index_of(data: bytes) -> ArchiveIndex:
    return image_archive.ArchiveReader(io.BytesIO(data)).index()


def assemble(index: bytes, contents: list[tuple[str, bytes]]) -> bytes:
    parts = [(image_archive.INDEX, index), *contents]
    return b"".join(
        image_archive.build_header(name, len(data)) + data + image_archive.build_padding(len(data))
        for name, data in parts
    ) + bytes(2 * image_archive.BLOCK)


def change_archive(
    data: bytes, *, record: tuple[str, dict[str, Any]] | None = None, **fields: Any
) -> bytes:
    """Return a consistent archive with changed fields in the index or in a record."""
    index, contents = replace(index_of(data), **fields), members(data)
    if record is not None:
        kind, told = record
        part = index.records[kind]
        old = json.loads(contents.pop(f"manifests/{part.digest}")) if part.size else {}
        text = manifests.encode_manifest(kind, {**old, **told})
        new = ArchiveMember(hashlib.sha256(text).hexdigest(), len(text))
        contents[f"manifests/{new.digest}"] = text
        index = replace(index, records={**index.records, kind: new})
    order = [f"manifests/{part.digest}" for part in index.records.values()]
    order += [f"blobs/{part.digest}" for part in index.blobs]
    return assemble(index.encode(), [(name, contents.get(name, b"")) for name in order])


OTHER = {"digest": hashlib.sha256(b"kernel").hexdigest(), "size": 6}


@pytest.mark.parametrize(
    ("kind", "told", "message"),
    [
        ("image", {"name": "go"}, "contradict"),
        ("image", {"name": "../../x"}, "contradict"),
        ("image", {"language": "go"}, "contradict"),
        ("image", {"architecture": "arm64"}, "contradict"),
        ("image", {"archive": OTHER}, "files differ"),
        ("image", {"archive": {**OTHER, "size": 7}}, "contradict"),
        ("image", {"archive": {"digest": "../../etc/passwd", "size": 6}}, "bad record"),
        ("image", {"archive": None}, "bad record"),
        ("image", {"warm": {"digest": "0" * 64, "size": 1}}, "files differ"),
        ("image", {"warm": 7}, "bad record"),
        ("image", {"memory": -1}, "bad record"),
        ("image", {"memory": True}, "bad record"),
        (
            "image",
            {"source": {"kind": "debian", "requested": "\x1b[2J"}},
            "invalid text about its source",
        ),
        (
            "image",
            {"source": {"kind": "debian", "requested": "x" * 600}},
            "invalid text about its source",
        ),
        ("image", {"source": []}, "bad record"),
        ("image", {"builder": BUILDER + 1}, "another version"),
        ("image", {"recipe": {}}, "another version"),
        ("image", {"config": {"environment": {"A=B": "1"}}}, "variables"),
        ("image", {"config": {"environment": {"A": "1\0"}}}, "variables"),
        ("image", {"config": {"environment": {"A": "1" * 70_000}}}, "variables"),
        ("image", {"config": {"environment": {f"A{n}": "" for n in range(300)}}}, "variables"),
        ("kernel", {"architecture": "arm64"}, "contradict"),
        ("kernel", {"image": {"digest": "0" * 64, "size": 6}}, "files differ"),
        ("kernel", {"modules": []}, "bad record"),
        ("kernel", {"version": 6}, "bad record"),
    ],
)
def test_records_that_do_not_fit_are_refused(
    full: ImageStore, empty: ImageStore, kind: str, told: dict[str, Any], message: str
) -> None:
    data = change_archive(export(full, "bash"), record=(kind, told))

    with pytest.raises(ImageError, match=message):
        take_in(empty, data)

    assert is_untouched(empty)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (LANGUAGE, "bash", "is a built-in language"),
        (LANGUAGE, "py", "is a built-in language"),
        (b"name = ", "toy", "bad language file"),
        (LANGUAGE, "other", "no language file"),
    ],
)
def test_language_files_that_do_not_fit_are_refused(
    full: ImageStore, empty: ImageStore, text: bytes, name: str, message: str
) -> None:
    catalogue.store_language(full, "toy", LANGUAGE)
    put_image(full, "toy", told=current("toy", full))
    data = export(full, "toy")
    index = index_of(data)
    if name == "other":
        index = replace(
            index,
            keys={kind: key for kind, key in index.keys.items() if kind != "language"},
            records={kind: part for kind, part in index.records.items() if kind != "language"},
        )
        data = change_archive(data, keys=index.keys, records=index.records)
    elif name == "toy":
        data = change_archive(data, record=("language", {"file": text.decode()}))
    else:
        data = change_archive(data, record=("image", {"name": name, "language": name}))
        data = change_archive(data, keys={**index.keys, "image": f"{name}-amd64", "language": name})

    with pytest.raises(ImageError, match=message):
        take_in(empty, data)

    assert is_untouched(empty)


def edit_index(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Return a changed index, written as by an export."""

    def edit(data: bytes) -> bytes:
        plain = json.loads(data)
        change(plain)
        return json.dumps(plain, indent=1).encode() + b"\n"

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        lambda _: b"[]\n",
        lambda _: b"{}\n",
        lambda _: b"7\n",
        lambda _: b"\xff\n",
        lambda _: b"[" * 60_000,
        lambda _: b'{"format": 1e999}\n',
        lambda data: data + b" ",
        lambda data: data.replace(b'"format": 1', b'"format": 1, "format": 1'),
        edit_index(lambda plain: plain.update(more=1)),
        edit_index(lambda plain: plain.update(format="1")),
        edit_index(lambda plain: plain.update(format=True)),
        edit_index(lambda plain: plain.update(blobs="x" * 99)),
        edit_index(lambda plain: plain.update(blobs={})),
        edit_index(lambda plain: plain.update(blobs=plain["blobs"] * 2)),
        edit_index(lambda plain: plain.update(blobs=[{"digest": "0" * 64, "size": 1}] * 1000)),
        edit_index(lambda plain: plain["blobs"][0].update(size=1 << 60)),
        edit_index(lambda plain: plain["blobs"][0].update(size=-1)),
        edit_index(lambda plain: plain["blobs"][0].update(size=True)),
        edit_index(lambda plain: plain["blobs"][0].update(digest="../../../etc/passwd")),
        edit_index(
            lambda plain: plain["blobs"][0].update(digest=plain["blobs"][0]["digest"].upper())
        ),
        edit_index(lambda plain: plain["agent"].update(digest="0" * 64)),
        edit_index(lambda plain: plain["agent"].update(sources="x")),
        edit_index(lambda plain: plain.pop("agent")),
        edit_index(lambda plain: plain["records"].pop("kernel")),
        edit_index(lambda plain: plain["records"].update(snapshot=plain["records"]["image"])),
        edit_index(lambda plain: plain["records"].update(default=plain["records"]["image"])),
        edit_index(lambda plain: plain["records"]["image"].update(key="../x")),
        edit_index(lambda plain: plain["records"]["image"].update(key=["x"])),
        edit_index(lambda plain: plain["records"]["image"].update(key="go-amd64")),
        edit_index(lambda plain: plain["records"]["kernel"].update(key="arm64")),
        edit_index(lambda plain: plain["records"]["image"].update(size=manifests.MAX_MANIFEST + 1)),
        edit_index(lambda plain: plain.update(records=[])),
    ],
)
def test_an_index_that_breaks_a_rule_is_refused(
    full: ImageStore, empty: ImageStore, edit: Callable[[bytes], bytes]
) -> None:
    contents = members(export(full, "bash"))
    index = edit(contents.pop(image_archive.INDEX))

    with pytest.raises(ImageError):
        take_in(empty, assemble(index, list(contents.items())))

    assert is_untouched(empty)


def test_an_archive_of_another_format_is_named(full: ImageStore, empty: ImageStore) -> None:
    contents = members(export(full, "bash"))
    index = edit_index(lambda plain: plain.update(format=2))(contents.pop(image_archive.INDEX))

    with pytest.raises(ImageError, match="format 2") as caught:
        take_in(empty, assemble(index, list(contents.items())))

    assert "same version" in caught.value.hint


def test_an_archive_larger_than_the_disk_is_refused_before_reading(
    full: ImageStore, empty: ImageStore
) -> None:
    data = export(full, "bash")
    index = index_of(data)
    huge = tuple(
        replace(blob, size=image_archive.MAX_BLOB) if blob != index.agent else blob
        for blob in index.blobs
    )
    # 24 GiB at least; a disk that has that free finds the archive cut short instead.
    index = replace(index, blobs=huge)

    with pytest.raises(ImageError) as caught:
        take_in(empty, assemble(index.encode(), []))

    assert (
        isinstance(caught.value, DiskFull)
        or "truncated" in caught.value.message
        or ("does not continue" in caught.value.message)
    )
    assert is_untouched(empty)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"\0",
        lambda data: data[:-1] + b"x",
        lambda data: data[:-1024] + data,
        lambda data: b"x" + data,
        lambda data: b"",
        lambda data: bytes(len(data)),
        lambda data: b"\x1f\x8b" + data[2:],
        lambda data: data.replace(b"blobs/", b"../../", 1),
        lambda data: data.replace(b"manifests/", b"/etc/passw", 1),
        lambda data: data.replace(b"0000644", b"0004755", 1),
        lambda data: data.replace(b"ustar\x0000", b"ustar  \0", 1),
    ],
)
def test_other_files_are_refused(
    full: ImageStore, empty: ImageStore, change: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(ImageError):
        take_in(empty, change(export(full, "bash")))

    assert is_untouched(empty)


def test_members_of_other_kinds_are_refused(full: ImageStore, empty: ImageStore) -> None:
    contents = members(export(full, "bash"))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE):
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                if name.startswith("blobs/"):
                    member.type, member.linkname = kind, "/etc/passwd"
                tar.addfile(member, io.BytesIO(data))

        with pytest.raises(ImageError):
            take_in(empty, output.getvalue())

        assert is_untouched(empty)
