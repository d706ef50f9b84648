from __future__ import annotations

import json
from typing import Any

import pytest

from slipway_initramfs.errors import ImageError
from slipway_initramfs.oci import manifests
from slipway_initramfs.oci.manifests import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    find_layer_compression,
    parse_config,
    parse_index,
    parse_manifest,
    read_document,
)
from slipway_initramfs.oci.repository import MAX_DOCUMENT, Descriptor, Document
from support.layers import config_bytes, descriptor, digest, manifest_bytes

LAYER = b"a layer"
CONFIG = config_bytes([digest(LAYER)])
MANIFEST: dict[str, Any] = json.loads(manifest_bytes(CONFIG, [LAYER]))
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "manifests": [
        descriptor(OCI_MANIFEST, b"x", platform={"os": "linux", "architecture": "amd64"}),
    ],
}


def pack_json(fields: object) -> bytes:
    return json.dumps(fields).encode()


def document(fields: object, media_type: str = "") -> Document:
    data = pack_json(fields)
    return Document(media_type, digest(data), data)


def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def test_a_manifest_names_its_configuration_and_layers() -> None:
    manifest = parse_manifest(pack_json(MANIFEST))

    assert manifest.config == Descriptor(manifests.OCI_CONFIG, digest(CONFIG), len(CONFIG))
    assert manifest.layers == (Descriptor(manifests.OCI_LAYER, digest(LAYER), len(LAYER)),)


def test_an_index_names_manifests_with_their_platforms() -> None:
    (entry,) = parse_index(pack_json(INDEX)).entries

    assert entry.descriptor == Descriptor(OCI_MANIFEST, digest(b"x"), 1)
    assert str(entry.platform) == "linux/amd64"


def test_a_configuration_has_platform_environment_and_diff_ids() -> None:
    config = parse_config(CONFIG)

    assert str(config.platform) == "linux/amd64"
    assert config.environment == (("PATH", "/bin"), ("A", "b=c"))
    assert (config.working_directory, config.user) == ("/srv", "1000")
    assert config.diff_ids == (digest(LAYER),)
    assert config.created == "2024-01-01T00:00:00Z"


def test_a_configuration_without_settings_is_accepted() -> None:
    config = parse_config(config_bytes([], config=None))

    assert (config.environment, config.working_directory, config.user) == ((), "", "")


def test_the_last_of_two_variables_of_one_name_counts() -> None:
    config = parse_config(config_bytes([], config={"Env": ["A=1", "B=2", "A=3"]}))

    assert dict(config.environment) == {"A": "3", "B": "2"}


@pytest.mark.parametrize("stated", [None, OCI_MANIFEST])
@pytest.mark.parametrize(
    "came", ["", OCI_MANIFEST, "application/json", f"{OCI_MANIFEST.upper()}; charset=utf-8"]
)
def test_a_manifest_is_known_by_field_header_or_structure(stated: str | None, came: str) -> None:
    fields = without(MANIFEST, "mediaType") | ({"mediaType": stated} if stated else {})

    assert isinstance(read_document(document(fields, came)), Manifest)


@pytest.mark.parametrize("came", ["", OCI_INDEX, DOCKER_INDEX, "text/plain"])
def test_an_index_is_known_by_header_or_structure(came: str) -> None:
    assert isinstance(read_document(document(INDEX, came)), Index)


@pytest.mark.parametrize(
    ("came", "expected"),
    [(DOCKER_MANIFEST, ""), (OCI_INDEX, ""), ("", OCI_INDEX), ("", DOCKER_MANIFEST)],
)
def test_types_that_contradict_each_other_are_refused(came: str, expected: str) -> None:
    with pytest.raises(ImageError, match="contradictory"):
        read_document(document(MANIFEST, came), expected)


def test_a_document_that_is_both_index_and_manifest_is_refused() -> None:
    with pytest.raises(ImageError, match="at the same time"):
        read_document(document(without(MANIFEST, "mediaType") | INDEX))


@pytest.mark.parametrize("came", ["", "application/vnd.docker.distribution.manifest.v1+prettyjws"])
def test_an_image_of_schema_version_1_is_refused_by_name(came: str) -> None:
    fields = {"schemaVersion": 1, "name": "x", "fsLayers": [], "history": []}

    with pytest.raises(ImageError, match="schema version 1") as caught:
        read_document(document(fields, came))

    assert "push it again" in caught.value.hint


def test_an_unknown_media_type_is_named() -> None:
    with pytest.raises(ImageError, match=r"'application/x\.unknown'"):
        read_document(document(MANIFEST | {"mediaType": "application/x.unknown"}, OCI_MANIFEST))


def test_an_artifact_is_no_image() -> None:
    chart = descriptor("application/vnd.cncf.helm.config.v1+json", b"{}")

    with pytest.raises(ImageError, match=r"not a container image: .*helm"):
        parse_manifest(pack_json(MANIFEST | {"config": chart}))


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        ("application/vnd.oci.image.layer.v1.tar", "none"),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "gzip"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "zstd"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"),
    ],
)
def test_a_layers_media_type_decides_its_compression(media_type: str, compression: str) -> None:
    assert find_layer_compression(Descriptor(media_type, digest(LAYER), 7)) == compression


@pytest.mark.parametrize(
    ("media_type", "said"),
    [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "must not be distributed"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "must not be distributed"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "unknown media type"),
        ("", "unknown media type"),
    ],
)
def test_a_layer_that_cannot_be_read_is_named(media_type: str, said: str) -> None:
    with pytest.raises(ImageError, match=f"layer {digest(LAYER)[7:19]} .*{said}"):
        find_layer_compression(Descriptor(media_type, digest(LAYER), 7))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": -1}, "invalid size -1"),
        ({"size": (1 << 40) + 1}, "invalid size"),
        ({"size": 10**400}, "too many digits"),
        ({"size": 1.5}, "invalid size"),
        ({"size": True}, "invalid size"),
        ({"size": "7"}, "invalid size"),
        ({"size": None}, "size missing"),
        ({"digest": "sha512:" + "0" * 128}, "'sha512'; only sha256"),
        ({"digest": "sha256:" + "0" * 63}, "invalid digest"),
        ({"digest": "sha256:" + "A" * 64}, "invalid digest"),
        ({"digest": "sha256:" + "0" * 64 + "\n"}, "invalid digest"),
        ({"digest": "../../etc/passwd"}, "invalid digest"),
        ({"digest": 5}, "invalid digest"),
        ({"mediaType": []}, "invalid mediaType"),
        ({"mediaType": "x" * 40_000}, "invalid mediaType"),
        ({"mediaType": "\ud800"}, "not text"),
        ({"mediaType": "a\0b"}, "invalid mediaType"),
    ],
)
def test_a_descriptor_has_to_be_possible(change: dict[str, Any], said: str) -> None:
    fields = MANIFEST | {"layers": [MANIFEST["layers"][0] | change]}

    with pytest.raises(ImageError, match=rf"layers\[0\].*{said}"):
        parse_manifest(pack_json(fields))


@pytest.mark.parametrize(
    "fields",
    [
        without(MANIFEST, "config"),
        MANIFEST | {"schemaVersion": 3},
        MANIFEST | {"schemaVersion": True},
        without(MANIFEST, "schemaVersion"),
        MANIFEST | {"config": "x"},
        MANIFEST | {"layers": {}},
        MANIFEST | {"layers": [5]},
        MANIFEST | {"layers": MANIFEST["layers"] * 513},
        [],
        "text",
        None,
    ],
)
def test_an_invalid_manifest_is_refused(fields: object) -> None:
    with pytest.raises(ImageError):
        parse_manifest(pack_json(fields))


@pytest.mark.parametrize(
    "change",
    [
        {"config": []},
        {"config": {"Env": "A=1"}},
        {"config": {"Env": ["A"]}},
        {"config": {"Env": ["=1"]}},
        {"config": {"Env": [5]}},
        {"config": {"Env": ["A=\0"]}},
        {"config": {"Env": ["A=1"] * 1025}},
        {"config": {"WorkingDir": 5}},
        {"config": {"User": ["root"]}},
        {"rootfs": {"diff_ids": ["x"]}},
        {"rootfs": {"diff_ids": [digest(LAYER)] * 513}},
        {"rootfs": 5},
        {"architecture": 5},
    ],
)
def test_an_invalid_configuration_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="configuration"):
        parse_config(config_bytes([], **change))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe{}",
        b"{",
        b'{"a": NaN}',
        b'{"size": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b" " * (MAX_DOCUMENT + 1),
    ],
)
def test_invalid_json_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        read_document(Document("", "", data))


def test_of_equal_keys_the_last_one_counts() -> None:
    data = pack_json(MANIFEST).replace(b"{", b'{"schemaVersion": 7, ', 1)

    assert parse_manifest(data) == parse_manifest(pack_json(MANIFEST))


@pytest.mark.parametrize(
    "config",
    [
        {"Env": [f"V{number}=1" for number in range(257)]},
        {"Env": [f"A={'x' * 4000}", f"B={'ä' * 2100}"]},
        {"Env": [f"{'N' * 4097}=1"]},
        {"Env": ["A=1"], "WorkingDir": f"/{'x' * 8200}"},
    ],
)
def test_a_configuration_says_no_more_than_a_job_can_carry(config: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match=r"257 Env|an environment of|not NAME=VALUE"):
        parse_config(config_bytes([], config=config))
