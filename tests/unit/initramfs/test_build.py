"""Builds of images from layouts on disk: existing images, versions, warm-ups and refusals."""

from __future__ import annotations

import stat
from contextlib import closing
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.build import build_image
from slipway_initramfs.compression.compressors import unpack_lz4
from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError, InvalidReference
from slipway_initramfs.languages import toml_file
from slipway_initramfs.languages.recipes import Warmup
from slipway_initramfs.oci import container_image as oci_source
from slipway_initramfs.oci.container_image import ContainerImage as Layers
from slipway_initramfs.oci.layout import open_layout
from slipway_initramfs.oci.platforms import resolve_image
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.source import SourceOptions, choose_source
from support.container_images import ContainerImage, Layer, write_layout
from support.layers import file, symlink, tar_bytes
from support.newc import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.oci.layout import OciLayout
    from slipway_initramfs.oci.repository import Descriptor
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Image
    from support.layer_writer import LayerWriter

TOY = """
name = "toy"
suffixes = [".toy"]
source = "main.toy"
run = { command = ["./main.toy"] }
image.tools = false
"""


def toy(registry: str = "", version: str = "") -> Language:
    """A language whose container image has this reference."""
    image = f'[image.registry]\nreference = "{registry}"\n' if registry else ""
    return replace(toml_file.parse_language((TOY + image).encode(), "toy.toml"), version=version)


def image_of(path: Path, fill: Callable[[LayerWriter], None], tag: str = "one") -> Path:
    """A layout with an image of one layer for this machine."""
    architecture = machine_architecture()
    variant = "v8" if architecture == "arm64" else ""
    layer = Layer.of_members(fill)
    write_layout(path, [ContainerImage((layer,), architecture=architecture, variant=variant)], tag)
    return path


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return image_of(tmp_path / "first", lambda layer: layer.file("etc/which", "first"))


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return image_of(tmp_path / "second", lambda layer: layer.file("etc/which", "second"))


def build(store: ImageStore, language: Language, layout: Path | None = None) -> Image:
    reference = Reference.parse(f"oci:{layout}") if layout is not None else None
    return build_image(language, store, SourceOptions(reference=reference))


# --- Versions --------------------------------------------------------------------------------


def test_a_bare_name_is_built_as_the_version_that_it_stands_for(
    store: ImageStore, first: Path, second: Path
) -> None:
    build(store, toy(), first)
    build(store, toy(version="2"), first)
    store.set_default("toy@2")

    image = build(store, toy(), second)

    assert image.name == "toy@2"
    assert image.source["requested"] == f"oci:{second}"
    assert image == store.image("toy") == store.image("toy@2")


def test_an_outdated_default_is_built_again_in_its_version(store: ImageStore, first: Path) -> None:
    build(store, toy(version="2"), first)
    store.set_default("toy@2")
    outdated = replace(toy(), registry=replace(toy().registry, trim=("etc/which",)))

    image = build(store, outdated)

    assert outdated.matches(image)
    assert [each.name for each in store.images()] == ["toy@2"]


def test_a_version_needs_a_placeholder_in_the_reference(store: ImageStore, first: Path) -> None:
    language = toy(f"oci:{first}", version="9.9")

    with pytest.raises(BuildFailed, match=r"the language file has no container image for toy@9\.9"):
        build_image(language, store, SourceOptions(kind="registry"))


# --- Where an image comes from ---------------------------------------------------------------


def test_the_same_content_by_another_name_is_remembered_by_that_name(
    store: ImageStore, first: Path, tmp_path: Path
) -> None:
    before = build(store, toy(), first)
    moved = first.rename(tmp_path / "moved")

    image = build(store, toy(), moved)

    assert image.source["requested"] == f"oci:{moved}"
    assert image.root == before.root


def test_a_damaged_image_is_built_again_from_its_named_source(
    store: ImageStore, first: Path
) -> None:
    before = build(store, toy(), first)
    before.root_archive.write_bytes(bytes(before.root.size))

    image = build(store, toy())

    assert image == before
    image.verify()


def test_a_forced_registry_replaces_an_image_that_was_named(
    store: ImageStore, first: Path, second: Path
) -> None:
    language = toy(f"oci:{second}")
    named = build(store, language, first)

    image = build_image(language, store, SourceOptions(kind="registry"))

    assert named.source["chosen"]
    assert not image.source["chosen"]
    assert image.source["requested"] == f"oci:{second}"


def test_a_missing_named_source_is_reported_with_a_hint(
    store: ImageStore, first: Path, tmp_path: Path
) -> None:
    build(store, toy(), first)
    first.rename(tmp_path / "moved")
    changed = replace(toy(), registry=replace(toy().registry, workload=99))

    with pytest.raises(BuildFailed, match="'toy' was built from") as raised:
        build(store, changed)

    assert "--from" in raised.value.hint


def test_a_language_that_has_left_debian_is_not_sought_there(
    store: ImageStore, first: Path
) -> None:
    language = toy(f"oci:{first}")
    image = build_image(language, store)
    manifest = {**image.manifest, "source": {"kind": "debian"}}
    with store.building("toy"):
        store.put_record("image", f"toy-{machine_architecture()}", manifest)

    again = build_image(language, store)

    assert again.source["requested"] == f"oci:{first}"


@pytest.mark.parametrize("registry", ["mirror", "mirror/of", "https://mirror.example", "a b"])
def test_a_mirror_that_is_no_host_is_not_taken_for_a_user_of_docker_hub(
    store: ImageStore, registry: str
) -> None:
    choices = SourceOptions(kind="registry", registry=registry)

    with pytest.raises(InvalidReference):
        choose_source(toy("rust:1"), store, choices, "amd64", None, BuildProgress())


# --- Warming up ------------------------------------------------------------------------------


def test_the_result_of_a_warm_up_cannot_redirect_mounts(store: ImageStore, first: Path) -> None:
    warm = Warmup(("true",), "", 1, slow=False)
    language = replace(toy(), registry=replace(toy().registry, warm=warm))
    left = tar_bytes(symlink("proc", "etc"), file("work", b"no directory"), file("opt/warm"))

    image = build_image(
        language,
        store,
        SourceOptions(reference=Reference.parse(f"oci:{first}")),
        warmer=lambda _image, _warm_up: left,
    )

    root = unpack(unpack_lz4(image.root_archive.read_bytes(), 1 << 24))
    assert "opt/warm" in root
    assert [stat.S_IFMT(root[name][0]) for name in ("proc", "work")] == [stat.S_IFDIR] * 2


@pytest.mark.parametrize(
    "left", [b"no archive", tar_bytes(file("../up")), tar_bytes(file(".agent"))]
)
def test_an_invalid_result_of_a_warm_up_is_reported(
    store: ImageStore, first: Path, left: bytes
) -> None:
    warm = Warmup(("true",), "", 1, slow=False)
    language = replace(toy(), registry=replace(toy().registry, warm=warm))

    with pytest.raises(BuildFailed):
        build_image(
            language,
            store,
            SourceOptions(reference=Reference.parse(f"oci:{first}")),
            warmer=lambda _image, _warm_up: left,
        )

    assert store.images() == []


# --- What is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fill",
    [
        lambda layer: layer.file(".agent/agent.pyc", "mine"),
        lambda layer: layer.symlink(".agent", "etc"),
        lambda layer: layer.symlink("etc", ".agent"),
    ],
)
def test_an_image_cannot_replace_the_agent(
    store: ImageStore, tmp_path: Path, fill: Callable[[LayerWriter], None]
) -> None:
    layout = image_of(tmp_path / "image", fill)

    with pytest.raises(BuildFailed, match=r"/\.agent"):
        build(store, toy(), layout)


def test_more_bytes_of_layers_than_a_root_may_have_are_not_even_fetched(
    store: ImageStore, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_source, "MAX_UNPACKED", 16)

    with pytest.raises(ImageError, match="the layers of the image have"):
        build(store, toy(), first)


class Watched:
    """A layout with an event that the opening of its sixth layer sets."""

    local = True

    def __init__(self, layout: OciLayout) -> None:
        self._layout = layout
        self._opened = 0
        self.sixth = Event()
        self.root, self.document, self.close = layout.root, layout.document, layout.close

    def blob(
        self, descriptor: Descriptor, offset: int = 0
    ) -> AbstractContextManager[Iterator[bytes]]:
        self._opened += 1
        if self._opened == 6:
            self.sixth.set()
        return self._layout.blob(descriptor, offset)


def test_layers_are_not_unpacked_far_ahead_of_their_use(store: ImageStore, tmp_path: Path) -> None:
    layers = tuple(Layer.of_bytes(bytes(1024 * number)) for number in range(2, 22))
    write_layout(tmp_path / "many", [ContainerImage(layers)])
    repository = Watched(open_layout(tmp_path / "many", ""))
    image = resolve_image(repository, "amd64")
    reference = Reference.parse(f"oci:{tmp_path}/many")

    with closing(repository), store.building("many"):
        given = Layers(reference, repository, image, store, BuildProgress()).layers()
        next(given)
        far_ahead = repository.sixth.wait(1)

    assert not far_ahead


def test_a_layer_that_has_vanished_is_fetched_again_and_no_bug(tmp_path: Path) -> None:
    with pytest.raises(ImageCorrupted, match="cannot read the layer abc: No such file"):
        list(oci_source.read_chunks(tmp_path / "abc"))


# --- Programs that commands begin with -------------------------------------------------------


def runs(command: str, *, environment: str = "") -> Language:
    """A language whose command begins with this program."""
    text = TOY.replace('["./main.toy"]', f'["{command}"]') + environment
    return toml_file.parse_language(text.encode(), "toy.toml")


@pytest.mark.parametrize("program", ["nosuch", "/bin/nosuch", "text", "/bin"])
def test_an_image_without_the_commands_program_is_refused(
    store: ImageStore, tmp_path: Path, program: str
) -> None:
    layout = image_of(tmp_path / "image", lambda layer: layer.file("usr/bin/text", "no program"))

    with pytest.raises(BuildFailed, match=f"the image lacks the program '{program}'") as raised:
        build(store, runs(program), layout)

    assert "Add the package" in raised.value.hint
    assert store.images() == []


@pytest.mark.parametrize("program", ["there", "/opt/bin/there", "bin/anything", "./main"])
def test_programs_are_looked_for_as_the_guest_does(
    store: ImageStore, tmp_path: Path, program: str
) -> None:
    def fill(layer: LayerWriter) -> None:
        layer.directory("opt/bin")
        layer.file("opt/bin/real", "#!/bin/sh", 0o755)
        layer.symlink("opt/bin/there", "/opt/bin/real")

    layout = image_of(tmp_path / "image", fill)

    build(store, runs(program, environment='[environment]\nPATH = "/bin:/opt/bin"'), layout)


def test_a_command_that_begins_with_another_program_makes_an_image_outdated(
    store: ImageStore, first: Path
) -> None:
    image = build(store, toy(), first)

    assert toy().matches(image)
    assert not runs("nosuch").matches(image)
