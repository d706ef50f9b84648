"""Images on disk: OCI layouts, as directories or tar archives, and archives of ``docker save``.

Formats: OCI image specification, "Image Layout"; Docker's "Combined Image JSON + Filesystem
Changeset Format", version 1.2.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.oci import json_fields
from slipway_initramfs.oci.file_sets import open_file_set
from slipway_initramfs.oci.manifests import (
    MAX_LAYERS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    parse_config,
    parse_index,
)
from slipway_initramfs.oci.repository import MAX_DOCUMENT, Descriptor, Document, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slipway_initramfs.oci.file_sets import FileSet, FileSlice

# Limit on the images in an archive of ``docker save``.
MAX_IMAGES = 1024

# Suffixes of media types by the first bytes of a layer; these archives do not state them.
_COMPRESSIONS = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}
_SHOWN = 8


def open_layout(path: Path, tag: str) -> OciLayout:
    """Open an OCI layout: a directory, or a plain tar archive.

    Raises:
        ImageError: the path cannot be opened.
    """
    return OciLayout(open_file_set(path), f"the layout {path}", tag)


def open_archive(path: Path, tag: str) -> DockerArchive:
    """Open an archive of ``docker save``, or a directory with its files.

    Raises:
        ImageError: the path cannot be opened.
    """
    return DockerArchive(open_file_set(path), f"the archive {path}", tag)


class OciLayout:
    """OCI image layout, a directory or a plain tar archive, as a repository.

    ``tag`` is the annotation ``org.opencontainers.image.ref.name`` of an entry of the index. An
    empty tag suits a layout with a single image, or with unnamed images for several platforms.
    """

    local = True

    def __init__(self, container: FileSet, what: str, tag: str) -> None:
        self._container = container
        self._what = what
        self._tag = tag

    def root(self) -> Document:
        """Return the manifest or index of the tag."""
        what = f"{self._what}: oci-layout"
        version = json_fields.get_text(
            json_fields.parse_object(self._container.read("oci-layout", MAX_DOCUMENT), what),
            "imageLayoutVersion",
            what,
        )
        if version.partition(".")[0] != "1":
            raise ImageError(f"{self._what} has the unknown version {version[:80]!r}")
        data = self._container.read("index.json", MAX_DOCUMENT)
        entries = parse_index(data).entries
        chosen = [entry for entry in entries if self._tag in ("", entry.name)]
        if len(chosen) > 1 and not any(entry.name for entry in chosen):
            return Document(OCI_INDEX, digest_of(data), data)
        if len(chosen) != 1:
            wanted = f"images {self._tag[:80]!r}" if self._tag else "images"
            raise ImageError(
                f"{self._what} has {len(chosen) or 'no'} {wanted}",
                _build_choice_hint([entry.name for entry in entries if entry.name]),
            )
        return self.document(chosen[0].descriptor)

    def document(self, descriptor: Descriptor) -> Document:
        """Return a document, checked against size and digest."""
        data = self._container.read(_build_blob_name(descriptor), MAX_DOCUMENT)
        found = digest_of(data)
        if len(data) != descriptor.size or found != descriptor.digest:
            raise ImageCorrupted(
                f"{self._what}: the blob {descriptor.label} has {len(data)} bytes "
                f"and the digest {found[:19]}...",
                "Copy the image there again.",
            )
        return Document(descriptor.media_type, found, data)

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Yield the bytes of a blob from ``offset`` on; the size is checked first."""
        with self._container.open(_build_blob_name(descriptor)) as part:
            _check_size(part, descriptor, self._what)
            yield part.chunks(offset)

    def close(self) -> None:
        """Close the archive or directory."""
        self._container.close()


class DockerArchive:
    """Plain tar archive of ``docker save`` as a repository, with a generated manifest.

    ``tag`` is a full name in the archive (``docker.io/library/rust:1.80``), the part after a slash,
    or the part after the colon. An empty tag suits an archive with a single image.
    """

    local = True

    def __init__(self, container: FileSet, what: str, tag: str) -> None:
        self._container = container
        self._what = what
        self._tag = tag
        self._names: dict[str, str] = {}

    def root(self) -> Document:
        """Return a manifest of the image in the form of the OCI specification.

        Compressed layers are read for their digests, which the archive does not state.
        """
        image = self._select_image()
        config = json_fields.get_text(image, "Config", self._what)
        data = self._container.read(config, MAX_DOCUMENT)
        diff_ids = parse_config(data).diff_ids
        listed = json_fields.get_array(image, "Layers", MAX_LAYERS, self._what)
        layers = [
            json_fields.check_text(name, f"Layers[{number}]", self._what)
            for number, name in enumerate(listed)
        ]
        if len(layers) != len(diff_ids):
            raise ImageError(
                f"{self._what} has {len(layers)} layers, but a configuration for {len(diff_ids)}"
            )
        self._names[digest_of(data)] = config
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest_of(data), "size": len(data)},
            "layers": [
                self._describe_layer(name, diff_id)
                for name, diff_id in zip(layers, diff_ids, strict=True)
            ],
        }
        made = json.dumps(manifest, sort_keys=True).encode()
        return Document(OCI_MANIFEST, digest_of(made), made)

    def document(self, descriptor: Descriptor) -> Document:
        """Return the configuration."""
        data = self._container.read(self._find_name(descriptor), MAX_DOCUMENT)
        return Document(descriptor.media_type, digest_of(data), data)

    @contextmanager
    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Yield the bytes of a layer from ``offset`` on; the size is checked first."""
        with self._container.open(self._find_name(descriptor)) as part:
            _check_size(part, descriptor, self._what)
            yield part.chunks(offset)

    def close(self) -> None:
        """Close the archive."""
        self._container.close()

    def _find_name(self, descriptor: Descriptor) -> str:
        try:
            return self._names[descriptor.digest]
        except KeyError:
            raise ImageError(f"{self._what} has no blob {descriptor.label}") from None

    def _describe_layer(self, name: str, diff_id: str) -> dict[str, Any]:
        with self._container.open(name) as part:
            start = part.read_at(0, 4)
            suffix = next(
                (end for magic, end in _COMPRESSIONS.items() if start.startswith(magic)), ""
            )
            digest = diff_id
            if suffix:
                hasher = hashlib.sha256()
                for chunk in part.chunks():
                    hasher.update(chunk)
                digest = f"sha256:{hasher.hexdigest()}"
            self._names[digest] = name
            return {"mediaType": OCI_LAYER + suffix, "digest": digest, "size": part.size}

    def _select_image(self) -> dict[str, Any]:
        """Return the archive's entry of the image that the tag names."""
        what = f"{self._what}: manifest.json"
        images = json_fields.parse_document(
            self._container.read("manifest.json", MAX_DOCUMENT), what
        )
        if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
            raise ImageError(f"{what} is not a list of images")
        if len(images) > MAX_IMAGES:
            raise ImageError(f"{what} lists more than {MAX_IMAGES} images")
        tags = [
            [
                json_fields.check_text(tag, "RepoTags", what)
                for tag in json_fields.get_array(image, "RepoTags", MAX_IMAGES, what)
            ]
            for image in images
        ]
        chosen: list[dict[str, Any]] = [
            image
            for image, names in zip(images, tags, strict=True)
            if not self._tag or any(_is_named(name, self._tag) for name in names)
        ]
        if len(chosen) != 1:
            wanted = f"images {self._tag[:80]!r}" if self._tag else "images"
            raise ImageError(
                f"{self._what} has {len(chosen) or 'no'} {wanted}",
                _build_choice_hint([name for names in tags for name in names]),
            )
        return chosen[0]


def _is_named(name: str, tag: str) -> bool:
    return name == tag or name.endswith((f"/{tag}", f":{tag}"))


def _build_choice_hint(names: list[str]) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > _SHOWN else ""
    shown = ", ".join(repr(name[:80]) for name in names[:_SHOWN])
    return f"Name one of {shown}{more}."


def _build_blob_name(descriptor: Descriptor) -> str:
    digest = json_fields.check_digest(descriptor.digest, "a blob of a layout")
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _check_size(part: FileSlice, descriptor: Descriptor, what: str) -> None:
    if part.size != descriptor.size:
        raise ImageCorrupted(
            f"{what}: the blob {descriptor.label} has {part.size} bytes "
            f"instead of {descriptor.size}",
            "Copy the image there again.",
        )
