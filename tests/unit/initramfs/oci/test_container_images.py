"""The images that the tests make: others' programs have to take them for images."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from support.container_images import ContainerImage, Layer, Style, write_layout
from support.host_programs import need_program
from support.small_interpreter import compile_interpreter

if TYPE_CHECKING:
    from pathlib import Path

    from support.layer_writer import LayerWriter


def lower(layer: LayerWriter) -> None:
    layer.directory("etc")
    layer.file("etc/kept", "lower")
    layer.file("etc/removed", "lower")
    layer.directory("cache")
    layer.file("cache/old", "lower")


def upper(layer: LayerWriter) -> None:
    layer.directory("etc")
    layer.whiteout("etc/removed")
    layer.opaque("cache")
    layer.file("cache/new", "upper")
    layer.file("x" * 90 + "/" + "y" * 200, "long")
    layer.hardlink("etc/linked", "etc/kept")
    layer.symlink("link", "etc/kept")


def image(compression: str = "gzip", **settings: Any) -> ContainerImage:
    layers = (Layer.of_members(lower, compression), Layer.of_members(upper, compression))
    return ContainerImage(layers, **settings)


def skopeo(*arguments: str) -> str:
    done = subprocess.run(
        (need_program("skopeo"), *arguments), capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.debian("skopeo")
def test_skopeo_copies_all_of_a_layout(tmp_path: Path, compression: str) -> None:
    top = write_layout(tmp_path / "layout", [image(compression)], "one")

    # It checks digests and sizes of what it copies.
    skopeo("--insecure-policy", "copy", f"oci:{tmp_path}/layout:one", f"dir:{tmp_path}/copy")

    blobs = {path.name for path in (tmp_path / "layout" / "blobs" / "sha256").iterdir()}
    copied = {path.name for path in (tmp_path / "copy").iterdir()}
    assert blobs - copied == {top["digest"].removeprefix("sha256:")}  # there it is manifest.json
    assert len(blobs & copied) == 3


@pytest.mark.debian("umoci")
def test_umoci_applies_the_layers(tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", [image()], "one")
    rootless = [] if os.geteuid() == 0 else ["--rootless"]

    subprocess.run(
        [
            need_program("umoci"),
            "unpack",
            *rootless,
            "--image",
            f"{tmp_path}/layout:one",
            tmp_path / "bundle",
        ],
        check=True,
        capture_output=True,
    )

    root = tmp_path / "bundle" / "rootfs"
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    long = "x" * 90 + "/" + "y" * 200
    assert found == {"etc/kept", "etc/linked", "cache/new", "link", long}
    assert (root / "etc" / "linked").samefile(root / "etc" / "kept")


@pytest.mark.debian("skopeo")
def test_each_platform_of_an_index_is_found(tmp_path: Path) -> None:
    images = [image(), image(architecture="arm64", variant="v8", user="nobody")]
    write_layout(tmp_path, images, "both")

    told = skopeo("--override-arch=arm64", "inspect", "--config", f"oci:{tmp_path}:both")

    configuration = json.loads(told)
    assert configuration["architecture"] == "arm64"
    assert configuration["config"]["User"] == "nobody"


@pytest.mark.debian("skopeo")
def test_a_layout_takes_several_tags(tmp_path: Path) -> None:
    write_layout(tmp_path, [image()], "one")
    write_layout(tmp_path, [image(working_directory="/two")], "two")

    directories = [
        json.loads(skopeo("inspect", "--config", f"oci:{tmp_path}:{tag}"))["config"].get(
            "WorkingDir"
        )
        for tag in ("one", "two")
    ]

    assert directories == [None, "/two"]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_layout(tmp_path / "first", [image()])
    second = write_layout(tmp_path / "second", [image()])

    assert first == second


def test_documents_are_written_in_the_style_that_is_asked_for(tmp_path: Path) -> None:
    style = Style(docker=True, manifest_type=False)

    top = write_layout(tmp_path, [image()], style=style)

    manifest = json.loads(
        (tmp_path / "blobs" / "sha256" / top["digest"].removeprefix("sha256:")).read_bytes()
    )
    assert "mediaType" not in manifest
    assert top["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert {layer["mediaType"] for layer in manifest["layers"]} == {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    }


@pytest.mark.debian("musl-gcc")
def test_the_small_interpreter_computes(tmp_path: Path) -> None:
    program = tmp_path / "rpn"
    program.write_bytes(compile_interpreter("static"))
    program.chmod(0o755)
    source = tmp_path / "main.rpn"
    source.write_text('"result" 2 3 + read * . # comment\n1 0 /')

    done = subprocess.run((program, source), input="4", capture_output=True, text=True, check=False)

    assert done.stdout == "result\n20\n"
    assert (done.returncode, done.stderr) == (1, "line 2: division by zero\n")
