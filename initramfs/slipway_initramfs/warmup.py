"""What an image has run once, in a machine of its own, so that each program starts fast after it.

What the image's programs leave is as hostile as the image itself: it comes out of a machine, and is
applied as a layer.
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
from slipway_initramfs.store.image_store import machine_architecture

if TYPE_CHECKING:
    from slipway_initramfs.languages.recipes import Recipe, Warmup
    from slipway_initramfs.rootfs.tree import Tree
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Blob, Image

# The file that the command leaves: a tar archive of what goes over the root.
OUTPUT = "warm.tar"

# Boots an image, runs a command in it and returns the file OUTPUT; raises ImageError.
Warmer = Callable[["Image", "Warmup"], bytes]


@dataclass(frozen=True, slots=True)
class WarmupResult:
    """What came of it: warnings, and the manifest's entry on the archive that was applied."""

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
    """Warm ``tree`` up as ``recipe`` says.

    ``trial`` makes an image of the tree; what an ``existing`` image got by the same command on the
    same root is taken again, without a machine. Raises BuildFailed if the command fails.
    """
    warm_up = recipe.warm
    if warm_up is None or (warm_up.unless and tree.glob(warm_up.unless)):
        return WarmupResult()
    image = trial()
    if image.architecture != machine_architecture():
        return WarmupResult(
            [f"not warmed up: this machine cannot run {image.architecture} programs"]
        )
    key = hashlib.sha256(json.dumps([image.root.digest, *warm_up.command]).encode()).hexdigest()
    blob = _find_known(existing, key, store)
    if blob is None:
        if warmer is None:
            return WarmupResult(["not warmed up: nobody here runs machines"])
        data = warmer(image, warm_up)
        blob = store.put_blob(lambda file: file.write(data))
    spool = Spool(store.temporary)
    with blob.path.open("rb") as file:
        spool.fill(file, limit=blob.size, what=OUTPUT)
    try:
        apply_layer(tree, spool, "oci")
    except ImageError as error:
        raise BuildFailed(f"warming up left a bad {OUTPUT}: {error.message}") from error
    defaults.add_mount_points(tree)
    return WarmupResult(record={"digest": blob.digest, "size": blob.size, "key": key})


def _find_known(existing: Image | None, key: str, store: ImageStore) -> Blob | None:
    """Return what an image in the store was warmed up with, if it is that of ``key``."""
    record = existing.manifest.get("warm") if existing is not None else None
    if not isinstance(record, dict) or record.get("key") != key:
        return None
    try:
        blob = store.blob(str(record.get("digest")), int(record.get("size", 0)))
        blob.verify()
    except (ImageCorrupted, ValueError, TypeError):
        return None
    return blob
