"""Image stores of a test's own."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

from slipway_initramfs.store.records import (
    BUILDER,
    DEBIAN_KERNEL,
    SMALL_BUILDER,
    build_kernel_key,
)
from slipway_initramfs.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any, BinaryIO

    from slipway._run.assets import Assets
    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Archive, Image, Kernel


def store_root(assets: Assets) -> Path:
    """Return the directory of the store that has the image of ``assets``."""
    return assets.image.root.path.parents[1]


def copy_store(assets: Assets, target: Path) -> None:
    """Copy the files of a boot, without the initrd made of them and without downloads.

    The layout is that of :mod:`slipway_initramfs.store.image_store`.
    """
    architecture, root = assets.image.architecture, store_root(assets)
    references = {
        f"refs/image/{assets.image.name}-{architecture}": assets.image.digest,
        f"refs/kernel/{assets.kernel.key}": assets.kernel.digest,
        f"refs/archive-agent/{assets.agent.archive.key}": assets.agent.archive.digest,
    }
    for reference, digest in references.items():
        manifest = f"manifests/{digest}.json"
        entries = json.loads((root / manifest).read_bytes()).values()
        blobs = [e["digest"] for e in entries if isinstance(e, dict) and "digest" in e]
        for name in (reference, manifest, *(f"blobs/{digest}" for digest in blobs)):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)


def flip_a_byte(path: Path) -> None:
    """Damage the file in its middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def writer(data: bytes) -> Callable[[BinaryIO], object]:
    """Write ``data``, as ``put_blob`` has it."""
    return lambda file: file.write(data)


def put_image(
    store: ImageStore,
    name: str = "toy",
    root: bytes = b"root archive",
    architecture: str = "amd64",
    told: Mapping[str, Any] | None = None,
) -> Image:
    """Put an image into a store, with an archive of these bytes; ``told`` is in its record too."""
    with store.building(f"image-{name}-{architecture}"):
        blob = store.put_blob(writer(root))
        manifest: dict[str, Any] = {
            "name": name,
            "language": name.partition("@")[0],
            "source": {"kind": "debian"},
            "architecture": architecture,
            "archive": {"digest": blob.digest, "size": blob.size, "compression": "none"},
            "files": 1,
            "root": 100 * MIB,
            "memory": 100 * MIB,
            "trimmed": 0,
            "workload": 64 * MIB,
            **(told or {}),
        }
        store.put_record("image", f"{name}-{architecture}", manifest)
    image = store.image(name, architecture)
    assert image is not None
    return image


def put_kernel(
    store: ImageStore,
    *,
    version: str = "6.1",
    content: bytes = b"kernel",
    builder: int | None = None,
    name: str = DEBIAN_KERNEL,
) -> Kernel:
    """Put a kernel of amd64 into a store, as made by the ``builder`` of this number or today's."""
    with store.building(f"kernel-amd64-{name}"):
        image = store.put_blob(writer(content))
        modules = store.put_blob(writer(b"modules"))
        today = BUILDER if name == DEBIAN_KERNEL else SMALL_BUILDER
        manifest = {
            "name": name,
            "builder": today if builder is None else builder,
            "architecture": "amd64",
            "version": version,
            "image": {"digest": image.digest, "size": image.size},
            "modules": {"digest": modules.digest, "size": modules.size},
        }
        store.put_record("kernel", build_kernel_key("amd64", name), manifest)
    kernel = store.find_kernel("amd64", name)
    assert kernel is not None
    return kernel


def put_agent(store: ImageStore) -> Archive:
    """Put a stand-in for a frozen agent into a store."""
    return store.put_archive("agent", "1-amd64", writer(b"agent"))


def names(directory: Path) -> list[str]:
    """List a directory of a store."""
    return sorted(path.name for path in directory.iterdir())
