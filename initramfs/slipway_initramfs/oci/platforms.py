"""Platforms: the choice of an image's manifest for an architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway_initramfs.errors import BuildFailed, ImageError
from slipway_initramfs.oci.manifests import (
    Manifest,
    find_layer_compression,
    parse_config,
    read_document,
)

if TYPE_CHECKING:
    from slipway_initramfs.oci.manifests import ImageConfig, Index, Platform
    from slipway_initramfs.oci.repository import Descriptor, Repository

# Limit on nested indexes before a manifest.
MAX_INDEXES = 2

# Variants that every machine of an architecture runs, best first.
_VARIANTS = {"amd64": ("", "v1"), "arm64": ("v8", "")}
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """Image of one architecture.

    ``digest`` is the digest of its manifest, ``index_digest`` that of the index before it, or
    empty.
    """

    digest: str
    index_digest: str
    manifest: Manifest
    config: ImageConfig


def resolve_image(repository: Repository, architecture: str) -> ResolvedImage:
    """Find the image for an ``architecture`` (Debian's name) behind a repository's reference.

    All documents are read and checked, the layers are not.

    Raises:
        BuildFailed: the image lacks the architecture.
        ImageError: a document is invalid.
    """
    document = repository.root()
    expected = index_digest = ""
    parsed = read_document(document)
    for _ in range(MAX_INDEXES):
        if isinstance(parsed, Manifest):
            break
        index_digest = index_digest or document.digest
        chosen = choose_platform(parsed, architecture)
        document = repository.document(chosen)
        expected = chosen.media_type
        parsed = read_document(document, expected)
    if not isinstance(parsed, Manifest):
        raise ImageError(f"more than {MAX_INDEXES} nested indexes")
    for layer in parsed.layers:
        find_layer_compression(layer)
    config = parse_config(repository.document(parsed.config).data)
    check_platform(config, architecture)
    if len(config.diff_ids) != len(parsed.layers):
        raise ImageError(
            f"the image has {len(parsed.layers)} layers, "
            f"but its configuration lists {len(config.diff_ids)}"
        )
    return ResolvedImage(document.digest, index_digest, parsed, config)


def choose_platform(index: Index, architecture: str) -> Descriptor:
    """Return the manifest for Linux on ``architecture``.

    A single manifest without a platform is accepted; its configuration is checked later.

    Raises:
        BuildFailed: the index lacks the architecture.
    """
    for variant in _VARIANTS.get(architecture, ("",)):
        for entry in index.entries:
            if entry.platform and _matches(entry.platform, architecture, (variant,)):
                return entry.descriptor
    unknown = [entry for entry in index.entries if entry.platform is None]
    if len(unknown) == 1:
        return unknown[0].descriptor
    # Attestations are manifests for the platform unknown/unknown.
    names = sorted(
        {str(e.platform) for e in index.entries if e.platform and e.platform.os != "unknown"}
    )
    more = ", ..." if len(names) > _SHOWN else ""
    raise BuildFailed(
        f"the image is not available for linux/{architecture}",
        f"It is for {', '.join(map(repr, names[:_SHOWN]))}{more}." if names else "",
    )


def check_platform(config: ImageConfig, architecture: str) -> None:
    """Check that an image is for Linux on ``architecture``.

    Raises:
        BuildFailed: the image is for another platform.
    """
    if not _matches(config.platform, architecture, _VARIANTS.get(architecture, ("",))):
        raise BuildFailed(
            f"the image is for {str(config.platform)!r}, not for linux/{architecture}",
            f"Name an image for {architecture} or for several platforms, or another --arch.",
        )


def _matches(platform: Platform, architecture: str, variants: tuple[str, ...]) -> bool:
    wanted = platform.os == "linux" and platform.architecture == architecture
    return wanted and platform.variant in variants
