"""Warm-up of an image: a command that the image runs once, in a machine, for faster starts.

The result is as untrusted as the image itself: it comes from a machine and is applied as a layer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slipway_initramfs.disk.spool import Spool
from slipway_initramfs.errors import BuildFailed, ImageCorrupted, ImageError
from slipway_initramfs.rootfs import defaults
from slipway_initramfs.rootfs.layers import apply_layer

if TYPE_CHECKING:
    from slipway_initramfs.languages.recipes import Recipe, Warmup
    from slipway_initramfs.rootfs.tree import Tree
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Blob, Image

# File that the command writes: a tar archive to be unpacked over the root.
OUTPUT = "warm.tar"

# Boots an image, runs a command in it and returns the bytes of OUTPUT; raises ImageError.
Warmer = Callable[["Image", "Warmup"], bytes]


@dataclass(frozen=True, slots=True)
class WarmupResult:
    """Result of a warm-up: warnings, and the manifest's entry on the applied archive."""

    warnings: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def warm_up(
    tree: Tree,
    recipe: Recipe,
    trial: Callable[[], Image],
    warmer: Warmer | None,
    existing: Image | None,
    store: ImageStore,
) -> WarmupResult:
    """Warm up ``tree`` as ``recipe`` says.

    ``trial`` makes an image of the tree. The result of an ``existing`` image for the same command
    and root is reused, without a machine.

    Raises:
        BuildFailed: the command fails, or its result is invalid.
    """
    warm_up = recipe.warm
    if warm_up is None or (warm_up.unless and tree.glob(warm_up.unless)):
        return WarmupResult()
    image = trial()
    key = hashlib.sha256(json.dumps([image.root.digest, *warm_up.command]).encode()).hexdigest()
    blob = _find_known(existing, key, store)
    if blob is None:
        if warmer is None:
            return WarmupResult(["not warmed up: no machines available"])
        data = warmer(image, warm_up)
        blob = store.put_blob(lambda file: file.write(data))
    spool = Spool(store.temporary)
    with blob.open() as file:
        spool.fill(file, limit=blob.size, what=OUTPUT)
    try:
        apply_layer(tree, spool, "oci")
    except ImageError as error:
        raise BuildFailed(f"the warm-up wrote an invalid {OUTPUT}: {error.message}") from error
    defaults.add_mount_points(tree)
    return WarmupResult(record={"digest": blob.digest, "size": blob.size, "key": key})


def _find_known(existing: Image | None, key: str, store: ImageStore) -> Blob | None:
    """Return the warm-up result of an existing image, if its key is ``key``."""
    record = existing.manifest.get("warm") if existing is not None else None
    if not isinstance(record, dict) or record.get("key") != key:
        return None
    try:
        blob = store.blob(str(record.get("digest")), int(record.get("size", 0)))
        blob.verify()
    except (ImageCorrupted, ValueError, TypeError):
        return None
    return blob
