"""Parser of indexes, manifests and configurations of container images, all untrusted.

The formats are those of the OCI image specification 1.1 ("Image Index", "Image Manifest", "Image
Configuration") and of Docker's image manifest version 2, schema 2, which differ only in media
types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway_initramfs.errors import ImageError
from slipway_initramfs.oci import json_fields
from slipway_initramfs.oci.repository import Descriptor

if TYPE_CHECKING:
    from slipway_initramfs.oci.repository import Document

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
# Media types that ``read_document`` accepts, for the header ``Accept``.
ACCEPTED = (OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST)
# Compression of a layer by its media type.
LAYER_COMPRESSIONS = {
    OCI_LAYER: "none",
    f"{OCI_LAYER}+gzip": "gzip",
    f"{OCI_LAYER}+zstd": "zstd",
    DOCKER_LAYER: "none",
    f"{DOCKER_LAYER}.gzip": "gzip",
    f"{DOCKER_LAYER}.zstd": "zstd",
}

MAX_LAYERS = 512
MAX_ENTRIES = 1024
MAX_VARIABLES = 256
# Limit on the name of a variable, in characters.
MAX_VARIABLE = 256
# Limit on all variables, in bytes; with the language's and the user's they must fit into a job.
MAX_ENVIRONMENT = 8 << 10

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
_INDEXES = {OCI_INDEX, DOCKER_INDEX}
_CONFIGS = {OCI_CONFIG, DOCKER_CONFIG}
_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Platform:
    """Platform of an image, in Go's names; ``variant`` may be empty."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part[:32] for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Entry:
    """Manifest in an index; ``name`` is the tag in a layout, or empty."""

    descriptor: Descriptor
    platform: Platform | None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """Set of manifests, from which one is chosen."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Manifest of an image: configuration, and layers from the lowest to the topmost."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Configuration of an image.

    ``diff_ids`` are the digests of the decompressed layers, ``created`` is the unparsed date,
    ``environment`` has each variable once, in the image's order.
    """

    platform: Platform
    diff_ids: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str = ""
    user: str = ""
    created: str = ""


def read_document(document: Document, expected: str = "") -> Index | Manifest:
    """Parse an index or a manifest.

    The field ``mediaType``, the type that came with the document and the ``expected`` type (from an
    index; may be empty) must agree as far as they are known, and decide. Without a known type the
    structure decides.

    Raises:
        ImageError: the document is invalid, or its types contradict each other.
    """
    what = f"the document {document.digest[:19] or 'of this image'}"
    content = json_fields.parse_object(document.data, what)
    stated = json_fields.get_text(content, "mediaType", what)
    claims = [stated, document.media_type.partition(";")[0].strip().lower(), expected]
    if content.get("schemaVersion") == 1 or any(claim.startswith(_SCHEMA_1) for claim in claims):
        raise ImageError(
            f"{what} is an image of schema version 1, obsolete since 2019",
            "Ask its owner to push it again with a current program.",
        )
    known = {claim for claim in claims if claim in ACCEPTED}
    if len(known) > 1:
        raise ImageError(f"{what} has contradictory media types: {', '.join(sorted(known))}")
    if stated and stated not in known:
        raise ImageError(f"{what} has the unknown media type {stated[:80]!r}")
    has_entries = content.get("manifests") is not None
    has_layers = content.get("layers") is not None or content.get("config") is not None
    if has_entries and has_layers:
        raise ImageError(f"{what} is an index and a manifest at the same time")
    if known & _INDEXES or (has_entries and not known):
        return _read_index(content, what)
    return _read_manifest(content, what)


def parse_index(data: bytes) -> Index:
    """Parse an image index or a manifest list.

    Raises:
        ImageError: the document is invalid.
    """
    return _read_index(json_fields.parse_object(data, "the index"), "the index")


def parse_manifest(data: bytes) -> Manifest:
    """Parse the manifest of an image.

    Raises:
        ImageError: the document is invalid.
    """
    return _read_manifest(json_fields.parse_object(data, "the manifest"), "the manifest")


def parse_config(data: bytes) -> ImageConfig:
    """Parse an image's configuration.

    Raises:
        ImageError: the document is invalid.
    """
    what = "the configuration of the image"
    content = json_fields.parse_object(data, what)
    run = json_fields.get_object(content, "config", what)
    rootfs = json_fields.get_object(content, "rootfs", what)
    variables: dict[str, str] = {}
    for number, entry in enumerate(json_fields.get_array(run, "Env", MAX_VARIABLES, what)):
        variable = json_fields.check_text(entry, f"Env[{number}]", what)
        name, separator, value = variable.partition("=")
        if not (0 < len(name) <= MAX_VARIABLE and separator):
            raise ImageError(f"{what} has the variable {name[:80]!r}, which is not NAME=VALUE")
        variables[name] = value
    texts = json_fields.get_text(run, "WorkingDir", what), json_fields.get_text(run, "User", what)
    size = sum(len(text.encode()) for text in (*variables, *variables.values(), *texts))
    if size > MAX_ENVIRONMENT:
        raise ImageError(f"{what} has an environment of {size} bytes, over {MAX_ENVIRONMENT}")
    diff_ids = [
        json_fields.check_digest(entry, f"{what}: diff_ids[{number}]")
        for number, entry in enumerate(json_fields.get_array(rootfs, "diff_ids", MAX_LAYERS, what))
    ]
    return ImageConfig(
        platform=_read_platform(content, what),
        diff_ids=tuple(diff_ids),
        environment=tuple(variables.items()),
        working_directory=texts[0],
        user=texts[1],
        created=json_fields.get_text(content, "created", what),
    )


def find_layer_compression(layer: Descriptor) -> str:
    """Return the name of a layer's compression.

    Raises:
        ImageError: the media type is unknown, or must not be distributed.
    """
    if layer.media_type in LAYER_COMPRESSIONS:
        return LAYER_COMPRESSIONS[layer.media_type]
    if ".foreign." in layer.media_type or ".nondistributable." in layer.media_type:
        raise ImageError(
            f"layer {layer.label} must not be distributed and is not in the registry",
            "Use an image that is based on a free one.",
        )
    raise ImageError(f"layer {layer.label} has the unknown media type {layer.media_type[:80]!r}")


def _read_index(content: dict[str, Any], what: str) -> Index:
    _check_version(content, what)
    entries = []
    for number, entry in enumerate(json_fields.get_array(content, "manifests", MAX_ENTRIES, what)):
        here = f"{what}: manifests[{number}]"
        descriptor = _read_descriptor(entry, here)
        found = json_fields.get_object(entry, "platform", here)
        annotations = json_fields.get_object(entry, "annotations", here)
        entries.append(
            Entry(
                descriptor,
                _read_platform(found, here) if found else None,
                json_fields.get_text(annotations, _NAME, here),
            )
        )
    return Index(tuple(entries))


def _read_manifest(content: dict[str, Any], what: str) -> Manifest:
    _check_version(content, what)
    if "config" not in content:
        raise ImageError(f"{what} lacks a configuration and is not an image")
    config = _read_descriptor(content["config"], f"{what}: config")
    if config.media_type not in _CONFIGS:
        raise ImageError(
            f"{what} is not a container image: its configuration is {config.media_type[:80]!r}",
            "Artifacts like charts, signatures and attestations cannot be run.",
        )
    layers = [
        _read_descriptor(entry, f"{what}: layers[{number}]")
        for number, entry in enumerate(json_fields.get_array(content, "layers", MAX_LAYERS, what))
    ]
    return Manifest(config, tuple(layers))


def _check_version(content: dict[str, Any], what: str) -> None:
    version = content.get("schemaVersion")
    if isinstance(version, bool) or version != 2:
        raise ImageError(
            f"{what} has the schema version {json_fields.show_value(version)} instead of 2"
        )


def _read_descriptor(value: object, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise ImageError(f"{where} is not an object")
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= json_fields.MAX_BLOB:
        raise ImageError(f"{where} has the invalid size {json_fields.show_value(size)}")
    digest = json_fields.check_digest(value.get("digest"), where)
    return Descriptor(json_fields.get_text(value, "mediaType", where), digest, size)


def _read_platform(content: dict[str, Any], where: str) -> Platform:
    names = ("os", "architecture", "variant")
    return Platform(*(json_fields.get_text(content, name, where) for name in names))
