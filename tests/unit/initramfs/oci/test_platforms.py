from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from slipway_initramfs.errors import ImageError
from slipway_initramfs.oci.manifests import (
    OCI_INDEX,
    OCI_MANIFEST,
    Entry,
    Index,
    Platform,
    parse_config,
)
from slipway_initramfs.oci.platforms import check_platform, choose_platform, resolve_image
from slipway_initramfs.oci.repository import Descriptor, Document
from support.layers import config_bytes, descriptor, digest, manifest_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYER = b"a layer"
CONFIG = config_bytes([digest(LAYER)])
MANIFEST = manifest_bytes(CONFIG, [LAYER])


class Documents:
    """A repository of documents; the first is the root."""

    local = True

    def __init__(self, *contents: bytes) -> None:
        self._root = contents[0]
        self._contents = {digest(data): data for data in contents}

    def root(self) -> Document:
        return Document("", digest(self._root), self._root)

    def document(self, wanted: Descriptor) -> Document:
        return Document("", wanted.digest, self._contents[wanted.digest])

    @contextmanager
    def blob(self, wanted: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        yield iter([self._contents[wanted.digest][offset:]])

    def close(self) -> None:
        pass


def index_of(*documents: bytes, media_type: str = OCI_MANIFEST) -> bytes:
    platform = {"os": "linux", "architecture": "amd64"}
    entries = [descriptor(media_type, data, platform=platform) for data in documents]
    return json.dumps({"schemaVersion": 2, "manifests": entries}).encode()


def index(*platforms: str) -> Index:
    """An index of os/architecture/variant; each manifest's digest is that of its platform."""
    return Index(
        tuple(
            Entry(
                Descriptor(OCI_MANIFEST, digest(name.encode()), 1),
                Platform(*name.split("/")) if name else None,
            )
            for name in platforms
        )
    )


@pytest.mark.parametrize(
    ("platforms", "architecture", "chosen"),
    [
        (["linux/arm64", "linux/amd64"], "amd64", "linux/amd64"),
        (["linux/amd64/v3", "linux/amd64"], "amd64", "linux/amd64"),
        (["windows/amd64", "linux/amd64/v1"], "amd64", "linux/amd64/v1"),
        (["linux/arm/v7", "linux/arm64", "linux/arm64/v8"], "arm64", "linux/arm64/v8"),
        (["linux/arm64/v9", "linux/arm64"], "arm64", "linux/arm64"),
        (["unknown/unknown", "linux/amd64"], "amd64", "linux/amd64"),
        (["linux/s390x", ""], "amd64", ""),
    ],
)
def test_the_manifest_for_this_machine_is_chosen(
    platforms: list[str], architecture: str, chosen: str
) -> None:
    found = choose_platform(index(*platforms), architecture)

    assert found.digest == digest(chosen.encode())


@pytest.mark.parametrize(
    "platforms",
    [
        ["linux/arm64"],
        ["windows/amd64"],
        ["linux/amd64/v3"],
        ["", ""],
        ["unknown/unknown"],
        [],
    ],
)
def test_no_manifest_of_another_platform_is_taken(platforms: list[str]) -> None:
    with pytest.raises(ImageError, match="not available for linux/amd64"):
        choose_platform(index(*platforms), "amd64")


def test_a_missing_platform_is_reported_with_the_existing_ones() -> None:
    with pytest.raises(ImageError) as caught:
        choose_platform(index("linux/arm64/v8", "windows/amd64", "unknown/unknown"), "amd64")

    assert caught.value.hint == "It is for 'linux/arm64/v8', 'windows/amd64'."


def test_a_configuration_of_another_platform_is_refused() -> None:
    config = parse_config(config_bytes([], architecture="arm64", variant="v8"))

    check_platform(config, "arm64")
    with pytest.raises(ImageError, match=r"for 'linux/arm64/v8', not for linux/amd64"):
        check_platform(config, "amd64")


def test_a_manifest_resolves_without_an_index() -> None:
    image = resolve_image(Documents(MANIFEST, CONFIG), "amd64")

    assert (image.digest, image.index_digest) == (digest(MANIFEST), "")
    assert image.config.diff_ids == (digest(LAYER),)


def test_an_index_of_an_index_resolves() -> None:
    inner = index_of(MANIFEST)
    outer = index_of(inner, media_type=OCI_INDEX)

    image = resolve_image(Documents(outer, inner, MANIFEST, CONFIG), "amd64")

    assert (image.digest, image.index_digest) == (digest(MANIFEST), digest(outer))


def test_more_indexes_in_a_row_are_refused() -> None:
    chain = [MANIFEST, index_of(MANIFEST)]
    for _ in range(2):
        chain.append(index_of(chain[-1], media_type=OCI_INDEX))

    with pytest.raises(ImageError, match="more than 2 nested indexes"):
        resolve_image(Documents(*reversed(chain), CONFIG), "amd64")


def test_a_document_of_another_type_than_its_index_says_is_refused() -> None:
    root = index_of(MANIFEST, media_type="application/vnd.docker.distribution.manifest.v2+json")

    with pytest.raises(ImageError, match="contradictory"):
        resolve_image(Documents(root, MANIFEST, CONFIG), "amd64")


def test_a_manifest_with_more_layers_than_diff_ids_is_refused() -> None:
    manifest = manifest_bytes(CONFIG, [LAYER, LAYER])

    with pytest.raises(ImageError, match="2 layers, but its configuration lists 1"):
        resolve_image(Documents(manifest, CONFIG), "amd64")


def test_a_layer_that_cannot_be_read_is_refused_before_it_is_fetched() -> None:
    manifest = MANIFEST.replace(b"layer.v1.tar", b"layer.v1.zip")

    with pytest.raises(ImageError, match="unknown media type"):
        resolve_image(Documents(manifest, CONFIG), "amd64")
