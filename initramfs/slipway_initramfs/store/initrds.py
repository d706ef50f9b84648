"""Initrds: the archives of agent, modules and root in one file.

QEMU accepts a single ``-initrd``. The guest unpacks concatenated archives in order. Uncompressed
archives, padded to 512 bytes, come first; the compressed archive then needs no padding
(Documentation/driver-api/early-userspace/buffer-format.rst). Every run imports this module: its own
imports are fast.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.store import manifests

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Archive, Image, Kernel

# Seconds since the last use after which a newer initrd of the same image replaces an old one.
MAX_AGE = 3600


def find_initrd(store: ImageStore, image: Image, kernel: Kernel | None, agent: Path) -> Path:
    """Return the initrd of this combination; write it if it is missing.

    ``agent`` is the path of an archive in this store. Without a kernel of this store the initrd has
    no modules.

    Raises:
        ImageError: the agent is not in this store, or the store cannot be written.
        ImageCorrupted: bytes in the store are missing or damaged.
    """
    if not manifests.is_digest(agent.name):
        raise ImageError(f"{agent} is not an archive of the image store")
    target = _build_path(store, image, kernel, agent)
    parts = [agent, *((kernel.modules_archive,) if kernel else ()), image.root_archive]
    with suppress(OSError):
        size = sum(store.tree.examine_file(part).st_size for part in parts)
        if store.tree.examine_file(target).st_size == size:
            with suppress(OSError):  # the store may belong to another user, and be read-only
                os.utime(target, follow_symlinks=False)
            return target
    from slipway_initramfs.store import files

    with store.building(f"initrd-{target.name[:32]}"):
        # From here on no collection runs; files replaced just before may be gone.
        image.quick_check()
        if kernel is not None:
            kernel.quick_check()
        files.make_directory(store, target.parent)
        aside = files.write_aside(store, lambda file: _concatenate_parts(store, parts, file))
        files.publish(store, aside, target)
        _forget_others(store, target)
    return target


def verify_initrd(store: ImageStore, image: Image, kernel: Kernel | None, agent: Archive) -> None:
    """Read the initrd of this combination and compare the digest of each part.

    A damaged initrd is removed, and ``find_initrd`` writes a new file. If the part in the store is
    damaged as well, a new build helps: ``build_image`` and ``build_kernel`` verify existing files.

    Raises:
        ImageCorrupted: the initrd is missing or damaged.
    """
    import hashlib

    from slipway_initramfs.store import files

    path = _build_path(store, image, kernel, agent.path)
    try:
        opened = os.fdopen(store.tree.open_file(path), "rb")
    except OSError as error:
        # The image may have been replaced and collected with its initrds.
        raise ImageCorrupted(
            f"the initrd of the image {image.name!r} is missing: {error.strerror}"
        ) from error
    with opened as file:
        for part in (agent.blob, *((kernel.modules,) if kernel else ()), image.root):
            digest, left = hashlib.sha256(), part.size
            while left and (data := file.read(min(left, 1 << 20))):
                digest.update(data)
                left -= len(data)
            if digest.hexdigest() != part.digest:
                files.remove_file(store, path)
                raise ImageCorrupted(
                    f"the initrd of the image {image.name!r} is damaged",
                    f"Build it again: slipway image build {image.name}",
                )


def _build_path(store: ImageStore, image: Image, kernel: Kernel | None, agent: Path) -> Path:
    # Blobs are named by their digest.
    parts = (image.root.digest, agent.name, *((kernel.modules.digest,) if kernel else ()))
    return store.root / "initrds" / "-".join(part[:32] for part in parts)


def _forget_others(store: ImageStore, target: Path) -> None:
    """Remove unused initrds of the same root with other agents or kernels."""
    oldest = time.time() - MAX_AGE
    for path in target.parent.glob(f"{target.name[:32]}-*"):
        with suppress(FileNotFoundError):
            if path != target and path.lstat().st_mtime < oldest:
                store.tree.remove_file(path)


def _concatenate_parts(store: ImageStore, parts: list[Path], output: BinaryIO) -> None:
    output.flush()
    for part in parts:
        with os.fdopen(store.tree.open_file(part), "rb") as source:
            left = os.fstat(source.fileno()).st_size
            while left:
                moved = os.sendfile(output.fileno(), source.fileno(), None, left)
                if not moved:
                    raise ImageCorrupted(f"{part.name[:16]} in the store is being truncated")
                left -= moved
