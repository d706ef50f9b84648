"""Initrds: the agent's archive, a kernel's modules and an image's root as one file.

QEMU takes a single ``-initrd``. The guest unpacks concatenated archives in their order; the
uncompressed ones, padded to 512 bytes, come first, so that the compressed one needs no padding
(Documentation/driver-api/early-userspace/buffer-format.rst). This module is on the way of every
run: it imports nothing that is slow to import.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.store import records

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from slipway_initramfs.store.image_store import ImageStore
    from slipway_initramfs.store.records import Archive, Image, Kernel

# Seconds since its last use after which a newer initrd of the same image replaces one.
MAX_AGE = 3600


def find_initrd(store: ImageStore, image: Image, kernel: Kernel | None, agent: Path) -> Path:
    """Return the initrd of this combination, made if there is none.

    ``agent`` is the path of an archive of this store. Without a kernel of this store there are no
    modules. Raises ImageError, and ImageCorrupted where the store's bytes are not what they have
    to be.
    """
    if not records.is_digest(agent.name):
        raise ImageError(f"{agent} is not an archive of the image store")
    target = _build_path(store, image, kernel, agent)
    parts = [agent, *((kernel.modules_archive,) if kernel else ()), image.root_archive]
    with suppress(OSError):
        size = sum(part.stat().st_size for part in parts)
        if target.stat().st_size == size:
            with suppress(OSError):  # somebody else's store can be used without writing to it
                os.utime(target)
            return target
    from slipway_initramfs.store import files

    with store.building(f"initrd-{target.name[:32]}"):
        # Here nobody sweeps any more; what was replaced just before may be gone.
        image.quick_check()
        if kernel is not None:
            kernel.quick_check()
        files.make_directory(store, target.parent)
        aside = files.write_aside(store, lambda file: _concatenate_parts(parts, file))
        files.publish(store, aside, target)
        _forget_others(target)
    return target


def verify_initrd(store: ImageStore, image: Image, kernel: Kernel | None, agent: Archive) -> None:
    """Read the initrd of this combination and compare each part's digest.

    A damaged one is removed, so that ``find_initrd`` makes it anew, and ImageCorrupted is raised.
    If the part in the store is damaged as well, only a new build helps: ``build_image`` and
    ``build_kernel`` verify what they find.
    """
    import hashlib

    path = _build_path(store, image, kernel, agent.path)
    try:
        opened = path.open("rb")
    except OSError as error:
        # An image that was replaced since may have been swept with all that was made of it.
        raise ImageCorrupted(
            f"the initrd of the image {image.name!r} is gone: {error.strerror}"
        ) from error
    with opened as file:
        for part in (agent.blob, *((kernel.modules,) if kernel else ()), image.root):
            digest, left = hashlib.sha256(), part.size
            while left and (data := file.read(min(left, 1 << 20))):
                digest.update(data)
                left -= len(data)
            if digest.hexdigest() != part.digest:
                path.unlink(missing_ok=True)
                raise ImageCorrupted(
                    f"the initrd of the image {image.name!r} is damaged",
                    f"Build it again: slipway image build {image.name}",
                )


def _build_path(store: ImageStore, image: Image, kernel: Kernel | None, agent: Path) -> Path:
    # Blobs are named by their digest.
    parts = (image.root.digest, agent.name, *((kernel.modules.digest,) if kernel else ()))
    return store.root / "initrds" / "-".join(part[:32] for part in parts)


def _forget_others(target: Path) -> None:
    """Remove this root's concatenations with other agents or kernels that are out of use."""
    oldest = time.time() - MAX_AGE
    for path in target.parent.glob(f"{target.name[:32]}-*"):
        with suppress(FileNotFoundError):
            if path != target and path.stat().st_mtime < oldest:
                path.unlink()


def _concatenate_parts(parts: list[Path], output: BinaryIO) -> None:
    output.flush()
    for part in parts:
        with part.open("rb") as source:
            left = os.fstat(source.fileno()).st_size
            while left:
                moved = os.sendfile(output.fileno(), source.fileno(), None, left)
                if not moved:
                    raise ImageCorrupted(f"{part.name[:16]} in the store is being truncated")
                left -= moved
