"""Images on disk that are damaged in any way: each error names the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import ImageError
from slipway_initramfs.oci.container_image import ContainerImage
from slipway_initramfs.oci.reference import Reference
from slipway_initramfs.oci.registry import Access
from slipway_initramfs.progress import BuildProgress
from slipway_initramfs.rootfs.layers import apply_layer
from slipway_initramfs.rootfs.tree import Tree
from support.layers import docker_archive_bytes, file, layout_files, tar_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway_initramfs.store.image_store import ImageStore

LAYERS = [tar_bytes(file("bin/x", b"one" * 9000)), tar_bytes(file("bin/y", b"two"))]
SAVED = docker_archive_bytes(LAYERS)
LAYOUT = tar_bytes(*(file(name, data) for name, data in layout_files(LAYERS).items()))


def read(reference: str, store: ImageStore) -> Tree:
    """All of the image."""
    store.temporary.mkdir(parents=True, exist_ok=True)
    image = ContainerImage.resolve(
        Reference.parse(reference), store, Access(), "amd64", BuildProgress()
    )
    tree = Tree()
    try:
        for label, layer in image.layers():
            try:
                apply_layer(tree, layer, "oci")
            except ImageError as error:
                # As the builder has it.
                raise ImageError(f"{label}: {error.message}") from error
    finally:
        image.close()
    return tree


@pytest.mark.parametrize(
    ("transport", "data"), [("docker-archive", SAVED), ("oci", LAYOUT)], ids=["saved", "layout"]
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"x",
        lambda _: b"x" * 10_000,
        lambda _: bytes(10_000),
        lambda _: b"\x1f\x8b" + bytes(1000),
        lambda _: tar_bytes(file("manifest.json", b"{}"), file("index.json", b"[]")),
        lambda _: tar_bytes(file("manifest.json", b"["), file("oci-layout", b"[")),
        lambda data: data.replace(b'"rootfs"', b'"rootfz"'),
        lambda data: data.replace(b'"amd64"', b'"sparc"'),
        lambda data: data.replace(b"one" * 100, b"two" * 100),
        *(lambda data, part=part: data[: int(len(data) * part / 16)] for part in range(1, 13)),
    ],
)
def test_error_names_the_file(
    store: ImageStore,
    tmp_path: Path,
    transport: str,
    data: bytes,
    damage: Callable[[bytes], bytes],
) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(data)
    assert read(f"{transport}:{path}", store).find("bin/y") is not None

    path.write_bytes(damage(data))

    with pytest.raises(ImageError) as caught:
        read(f"{transport}:{path}", store)
    assert str(path) in caught.value.message
