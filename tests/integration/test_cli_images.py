"""``slipway image`` on the command line: output, names of images, refusals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.languages import catalogue
from slipway_initramfs.store.image_store import ImageStore
from support.stores import put_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.commands import Commands, Ended

LANGUAGE = b"""
name = "long"
suffixes = [".long"]
source = "main.long"
run = { command = ["long", "main.long"] }
"""
VERSION = "long@3.11.2-slim-bookworm-of-a-long-name"
OURS = machine_architecture()
OTHER = {"amd64": "arm64", "arm64": "amd64"}[OURS]


@pytest.fixture
def toys(tmp_path: Path) -> ImageStore:
    """A store without anything that boots."""
    return ImageStore(tmp_path / "toys")


@pytest.fixture
def image(commands: Commands, toys: ImageStore) -> Callable[..., Ended]:
    """Runs ``slipway image COMMAND ...`` on the store of toys."""
    return lambda name, *arguments: commands(
        "slipway", "image", name, "--store", toys.root, *arguments
    )


def names(listed: Ended) -> list[str]:
    return [line.split()[0] for line in listed.stdout.decode().splitlines()[1:]]


# --- What is shown ---------------------------------------------------------------------------


def test_the_list_is_aligned_however_long_a_name_is(
    image: Callable[..., Ended], toys: ImageStore
) -> None:
    catalogue.store_language(toys, "long", LANGUAGE)
    for name in ("bash", VERSION):
        put_image(toys, name, architecture=OURS)
    image("default", VERSION)

    listed = image("list")

    lines = listed.stdout.decode().splitlines()
    assert names(listed) == ["bash", f"{VERSION}*"]
    assert (
        len({line.index(word) for line, word in zip(lines, ("ARCH", OURS, OURS), strict=True)}) == 1
    )
    assert len({line.rindex("  ") for line in lines}) == 1


# --- What names an image ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bash", "sh", "Shell"])
def test_an_image_goes_by_the_names_of_its_language(
    image: Callable[..., Ended], toys: ImageStore, name: str
) -> None:
    made = put_image(toys, "bash", architecture=OURS)

    inspected = image("inspect", name)

    assert inspected.code == 0, inspected.stderr
    assert made.digest in inspected.stdout.decode()


def test_an_image_of_another_architecture_goes_by_its_name_where_there_is_no_other(
    image: Callable[..., Ended], toys: ImageStore
) -> None:
    foreign = put_image(toys, "bash", architecture=OTHER)
    alone = image("inspect", "bash")
    own = put_image(toys, "bash", architecture=OURS)

    beside = image("inspect", "bash")

    assert foreign.digest in alone.stdout.decode()
    assert own.digest in beside.stdout.decode()


def test_image_of_an_architecture_is_named_by_an_option(
    image: Callable[..., Ended], toys: ImageStore
) -> None:
    foreign = put_image(toys, "bash", b"foreign", architecture=OTHER)
    put_image(toys, "bash", architecture=OURS)
    put_image(toys, "go", architecture=OURS)

    inspected = image("inspect", "--arch", OTHER, "sh")
    missing = [
        image(*command, "--arch", OTHER, name)
        for command in (("inspect",), ("remove", "sh"))
        for name in ("go", toys.image("go", OURS).digest)  # type: ignore[union-attr]
    ]
    kept = toys.images()
    removed = image("remove", "--arch", OTHER, "bash")

    assert foreign.digest in inspected.stdout.decode()
    assert [each.code for each in missing] == [2] * 4
    assert f"image for {OTHER} 'go' not found" in missing[0].stderr
    assert len(kept) == 3
    assert f"removed bash ({OTHER})" in removed.stderr
    assert toys.find_architectures("bash") == [OURS]


def test_removed_images_are_reported(image: Callable[..., Ended], toys: ImageStore) -> None:
    for name in ("bash", "bash@5", "go"):
        put_image(toys, name, architecture=OURS)
    image("default", "bash@5")

    removed = image("remove", "bash", "sh", "golang")

    assert removed.code == 0, removed.stderr
    assert [line.split()[2] for line in removed.stderr.splitlines()] == ["bash@5", "go"]
    assert names(image("list")) == ["bash"]


def test_a_wrong_name_prevents_all_removals(image: Callable[..., Ended], toys: ImageStore) -> None:
    put_image(toys, "bash", architecture=OURS)

    refused = image("remove", "bash", "go")

    assert refused.code == 2
    assert "'go'" in refused.stderr
    assert names(image("list")) == ["bash"]


# --- What takes space --------------------------------------------------------------------------


def test_disk_use_is_shown(image: Callable[..., Ended], toys: ImageStore) -> None:
    put_image(toys, "bash", bytes(3 << 20), architecture=OURS)
    put_image(toys, "bash", bytes(2 << 20), architecture=OTHER)
    toys.layers.mkdir()
    (toys.layers / "x").write_bytes(bytes(range(256)) * (5 << 12))

    shown = image("du")
    told = json.loads(image("du", "--json").stdout)

    rows = [line.split() for line in shown.stdout.decode().splitlines()]
    assert rows[0][:3] == ["KIND", "NAME", "MIB"]
    remove = ["slipway", "image", "remove"]
    assert ["image", f"bash-{OURS}", "3", "0", *remove, "bash"] in rows
    assert ["image", f"bash-{OTHER}", "2", "0", *remove, "--arch", OTHER, "bash"] in rows
    assert ["layers", "5", "0", "slipway", "image", "prune"] in rows
    assert rows[-1][:2] == ["total", "10"]
    assert "to free 5 MiB: slipway image prune" in shown.stderr
    assert told["prunable"] == 5 << 20
    assert {use["kind"] for use in told["uses"]} >= {"image", "layers"}


def test_a_prune_can_be_tried_first(image: Callable[..., Ended], toys: ImageStore) -> None:
    put_image(toys, "bash", b"1" * (3 << 20), architecture=OURS)
    put_image(toys, "bash", b"2", architecture=OURS)
    before = {path for path in toys.root.rglob("*") if "locks" not in path.parts}

    tried = image("prune", "--dry-run")
    told = json.loads(image("prune", "--dry-run", "--json").stdout)
    unchanged = {path for path in toys.root.rglob("*") if "locks" not in path.parts}
    done = json.loads(image("prune", "--json").stdout)

    assert unchanged == before
    assert ["blobs", "1", "3"] in [line.split() for line in tried.stdout.decode().splitlines()]
    assert "would free 3 MiB; removed nothing" in tried.stderr
    assert {file["path"] for file in told["files"]} <= {str(path) for path in before}
    assert told["bytes"] == done["bytes"] >= 3 << 20


def test_a_missing_store_takes_no_space_and_is_not_created(
    image: Callable[..., Ended], toys: ImageStore
) -> None:
    assert json.loads(image("du", "--json").stdout)["bytes"] == 0
    assert json.loads(image("prune", "--dry-run", "--json").stdout)["bytes"] == 0
    assert not toys.root.exists()


# --- What a bare name stands for -------------------------------------------------------------


def test_a_default_is_chosen_and_taken_back(image: Callable[..., Ended], toys: ImageStore) -> None:
    for name in ("bash", "bash@5"):
        put_image(toys, name, architecture=OURS)
    # The choice counts for this architecture as well, by its own image.
    put_image(toys, "bash@5", b"foreign", architecture=OTHER)

    chosen = image("default", "sh@5")
    with_choice = names(image("list"))
    taken_back = image("default", "bash")

    assert (chosen.code, taken_back.code) == (0, 0), chosen.stderr + taken_back.stderr
    assert "default of bash: bash@5" in chosen.stderr
    assert with_choice == ["bash", "bash@5*", "bash@5*"]
    assert names(image("list")) == ["bash", "bash@5", "bash@5"]


@pytest.mark.parametrize("name", ["nope", "bash@4", "bash@", "", "../x", "bash@5/x"])
def test_a_missing_image_does_not_become_the_default(
    image: Callable[..., Ended], toys: ImageStore, name: str
) -> None:
    put_image(toys, "bash@5", architecture=OURS)

    refused = image("default", name)

    assert refused.code == 2
    assert refused.stderr.startswith("slipway: error: ")
    assert names(image("list")) == ["bash@5"]


# --- Wrong calls of build --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "missing LANGUAGE"),
        (("nope",), "unknown language"),
        (("all", "bash"), "'all'"),
        (("bash@",), "invalid version"),
        (("--name", "mine", "bash"), "--language-file"),
        (("--language-file", "/nowhere.toml"), "/nowhere.toml"),
        (("--from", "oci:x", "bash", "go"), "--from"),
        (("--from", "oci:x", "--source", "debian", "bash"), "--source debian"),
        (("--from", "docker://UPPER/x", "bash"), "'UPPER/x'"),
    ],
)  # fmt: skip
def test_wrong_calls_of_build_are_refused_before_the_build(
    image: Callable[..., Ended], toys: ImageStore, arguments: tuple[str, ...], word: str
) -> None:
    refused = image("build", *arguments)

    assert refused.code == 2
    assert word in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (toys.root / "blobs").exists()
