from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.oci.layer_unpacking import unpack_layer
from slipway_initramfs.oci.layout import open_archive, open_layout
from slipway_initramfs.oci.manifests import OCI_MANIFEST
from slipway_initramfs.oci.platforms import resolve_image
from slipway_initramfs.rootfs.layers import apply_layer
from slipway_initramfs.rootfs.tree import Tree
from support.layers import (
    Entry,
    descriptor,
    digest,
    docker_archive_bytes,
    file,
    hardlink,
    layout_files,
    symlink,
    tar_bytes,
)

if TYPE_CHECKING:
    from slipway_initramfs.oci.repository import Repository

LOWER = tar_bytes(file("bin/x", b"one"), file("bin/y", b"two"))
UPPER = gzip.compress(tar_bytes(file("bin/x", b"three"), file("bin/.wh.y")), mtime=0)
LAYERS = [LOWER, UPPER]


def write_layout(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    path /= "layout.tar"
    path.write_bytes(tar_bytes(*(file(f"./{name}", data) for name, data in files.items())))
    return path


either = pytest.mark.parametrize("write", [write_layout, write_archive])
Writer = Callable[[Path, dict[str, bytes]], Path]


def contents(images: Repository) -> dict[str, bytes]:
    """Return the paths in the root of the image."""
    tree = Tree()
    try:
        image = resolve_image(images, "amd64")
        for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
            with images.blob(layer) as chunks:
                apply_layer(tree, unpack_layer(chunks, layer, diff_id, limit=1 << 20), "oci")
    finally:
        images.close()
    return {path: node.read(100) for path, node in tree.walk() if node.is_file}


@either
@pytest.mark.parametrize("tag", ["latest", ""])
def test_the_image_of_a_layout_is_read(write: Writer, tag: str, tmp_path: Path) -> None:
    path = write(tmp_path, layout_files(LAYERS))

    assert contents(open_layout(path, tag)) == {"bin/x": b"three"}


@either
def test_a_layout_of_several_names_wants_one_of_them(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, layout_files(LAYERS, ("1.80", "1.81")))

    assert contents(open_layout(path, "1.81"))
    for tag in ("", "1.79"):
        with pytest.raises(ImageError) as caught:
            contents(open_layout(path, tag))
        assert caught.value.hint == "Name one of '1.80', '1.81'."


def test_a_layout_of_nameless_platforms_is_an_index(tmp_path: Path) -> None:
    amd64 = layout_files(LAYERS, ("",))
    arm64 = layout_files(LAYERS[:1], ("",), architecture="arm64")
    entries = []
    for name, files in (("amd64", amd64), ("arm64", arm64)):
        (entry,) = json.loads(files["index.json"])["manifests"]
        entries.append(entry | {"platform": {"os": "linux", "architecture": name}})
    index = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    path = write_layout(tmp_path, arm64 | amd64 | {"index.json": index})

    images = open_layout(path, "")

    assert resolve_image(images, "arm64").index_digest == digest(index)
    assert contents(images) == {"bin/x": b"three"}


def test_a_blob_is_read_from_an_offset(tmp_path: Path) -> None:
    images = open_layout(write_archive(tmp_path, layout_files(LAYERS)), "")
    layer = resolve_image(images, "amd64").manifest.layers[0]

    with images.blob(layer, 600) as chunks:
        data = b"".join(chunks)

    assert data == LOWER[600:]
    images.close()


@either
def test_a_manifest_of_another_digest_is_corrupted(write: Writer, tmp_path: Path) -> None:
    files = layout_files(LAYERS)
    entry = json.loads(files["index.json"])["manifests"][0]
    name = f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}"
    files[name] = files[name].replace(b"2", b"3", 1)

    with pytest.raises(ImageCorrupted, match="and the digest"):
        contents(open_layout(write(tmp_path, files), ""))


@either
def test_a_layer_of_another_size_is_corrupted(write: Writer, tmp_path: Path) -> None:
    files = layout_files(LAYERS)
    files[f"blobs/sha256/{digest(LOWER).removeprefix('sha256:')}"] += b"more"

    with pytest.raises(ImageCorrupted, match=f"{len(LOWER) + 4} bytes instead of {len(LOWER)}"):
        contents(open_layout(write(tmp_path, files), ""))


@either
@pytest.mark.parametrize(
    "change",
    [
        {"oci-layout": b'{"imageLayoutVersion": "2.0.0"}'},
        {"oci-layout": b"{}"},
        {"oci-layout": b" " * (5 << 20)},
        {"index.json": b"["},
        {"index.json": b'{"schemaVersion": 2}'},
        {"index.json": b'{"schemaVersion": 2, "manifests": [{"digest": "../../../etc/passwd"}]}'},
        {
            "index.json": json.dumps(
                {"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST, b"missing")]}
            ).encode()
        },
    ],
)
def test_an_invalid_layout_is_refused(
    write: Writer, change: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(ImageError):
        contents(open_layout(write(tmp_path, layout_files(LAYERS) | change), ""))


@pytest.mark.parametrize("name", ["index.json", "blobs", f"blobs/sha256/{digest(LOWER)[7:]}"])
def test_a_symbolic_link_in_a_layout_is_not_followed(name: str, tmp_path: Path) -> None:
    path = write_layout(tmp_path / "layout", layout_files(LAYERS))
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ImageError, match="cannot open"):
        contents(open_layout(path, ""))


def test_a_pipe_in_a_layout_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    path = write_layout(tmp_path, layout_files(LAYERS))
    (path / "index.json").unlink()
    os.mkfifo(path / "index.json")

    with pytest.raises(ImageError, match="not a regular file"):
        contents(open_layout(path, ""))


@pytest.mark.parametrize("opened", [open_layout, open_archive])
def test_a_missing_or_compressed_file_is_reported(
    opened: Callable[[Path, str], Repository], tmp_path: Path
) -> None:
    packed = tmp_path / "x.tar.gz"
    packed.write_bytes(UPPER)

    with pytest.raises(ImageError, match="cannot open"):
        opened(tmp_path / "missing", "")
    with pytest.raises(ImageError, match="is compressed") as caught:
        opened(packed, "")
    assert "Decompress it first" in caught.value.hint


@pytest.mark.parametrize("tag", ["", "1", "x:1", "docker.io/library/x:1"])
def test_an_image_that_docker_saved_is_read(tag: str, tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(docker_archive_bytes(LAYERS))

    # Its topmost layer is a link to the lowest one.
    assert contents(open_archive(path, tag)) == {"bin/x": b"one", "bin/y": b"two"}


def test_a_saved_image_has_the_same_digest_each_time(tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(docker_archive_bytes(LAYERS))
    opened = [open_archive(path, "") for _ in range(2)]

    first, second = (images.root() for images in opened)

    assert first == second
    for images in opened:
        images.close()


def test_a_saved_image_of_another_name_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(docker_archive_bytes(LAYERS, ("x:1", "y:11")))

    with pytest.raises(ImageError, match="no images '2'") as caught:
        contents(open_archive(path, "2"))

    assert caught.value.hint == "Name one of 'x:1', 'y:11'."


CONFIG = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [digest(LOWER)]}}


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [file("manifest.json", b"{}")],
        [file("manifest.json", b"[5]")],
        [file("manifest.json", b"[]")],
        [file("manifest.json", b'[{"Config": "/etc/passwd", "Layers": []}]')],
        [file("manifest.json", b'[{"Config": "../x", "Layers": []}]')],
        [file("manifest.json", b'[{"Config": "config", "Layers": ["l", "l"]}]')],
        [file("manifest.json", b'[{"Config": "config", "Layers": [7]}]')],
        [symlink("manifest.json", "manifest.json")],
        [symlink("manifest.json", "../../etc/passwd"), file("etc/passwd", b"[]")],
        [hardlink("manifest.json", "/etc/passwd")],
        [Entry("manifest.json", b"5")],
        [file("../manifest.json", b"[]")],
    ],
)
def test_an_invalid_saved_image_is_refused(entries: list[Entry], tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(
        tar_bytes(file("config", json.dumps(CONFIG).encode()), file("l", LOWER), *entries)
    )

    with pytest.raises(ImageError):
        contents(open_archive(path, ""))


@pytest.mark.debian("skopeo")
@pytest.mark.parametrize(
    ("target", "opened"),
    [
        ("oci:{}/copy:latest", open_layout),
        ("oci-archive:{}/copy:latest", open_layout),
        ("docker-archive:{}/copy:x:latest", open_archive),
    ],
)
def test_archives_of_skopeo_are_read(
    target: str, opened: Callable[[Path, str], Repository], tmp_path: Path
) -> None:
    source = write_layout(tmp_path / "source", layout_files(LAYERS))
    subprocess.run(
        [
            "skopeo",
            "copy",
            "--insecure-policy",
            "-q",
            f"oci:{source}:latest",
            target.format(tmp_path),
        ],
        check=True,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
    )

    assert contents(opened(tmp_path / "copy", "latest")) == {"bin/x": b"three"}


def test_an_overlong_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(tar_bytes(symlink("blobs", "x" * 4096)))

    with pytest.raises(ImageError, match="more than 4095 bytes"):
        open_layout(archive, "")
