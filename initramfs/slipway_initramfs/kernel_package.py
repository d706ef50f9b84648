"""Small kernels in a Python package: ``slipway-kernel``, which ``make kernel-wheel`` builds.

For each architecture the package has a directory with ``kernel.xz`` and ``record.json``, the
kernel's manifest in the store.
"""

from __future__ import annotations

import lzma
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway_initramfs.debian.kernel import MAX_KERNEL, write_sparse
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.rootfs.cpio import write_tree
from slipway_initramfs.rootfs.tree import Tree
from slipway_initramfs.store import manifests
from slipway_initramfs.store.records import SMALL_BUILDER, SMALL_KERNEL, Kernel, build_kernel_key

if TYPE_CHECKING:
    from slipway_initramfs.store.image_store import ImageStore

PACKAGE = "slipway_kernel"
RECORD = "record.json"
IMAGE = "kernel.xz"
_MAX_PACKED = 64 << 20


def adopt_installed_kernel(store: ImageStore, architecture: str) -> Kernel | None:
    """Put the small kernel of the installed package into the store.

    Return None if the package is not installed, lacks the architecture, or has a kernel for another
    version of Slipway.

    Raises:
        ImageError: the package is damaged, or the store cannot be written.
    """
    directory = _find_directory(architecture)
    if directory is None:
        return None
    try:
        with (directory / RECORD).open("rb") as file:
            manifest = manifests.parse_manifest(file.read(manifests.MAX_MANIFEST + 1), "kernel")
        if manifest.get("builder") != SMALL_BUILDER:
            return None
        with (directory / IMAGE).open("rb") as file:
            data = _unpack(file.read(_MAX_PACKED + 1))
    except (OSError, ImageCorrupted) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        raise _make_error(reason or "cannot be read") from error
    with store.building(f"kernel-{architecture}-{SMALL_KERNEL}"):
        image = store.put_blob(lambda file: write_sparse(data, file))
        modules = store.put_blob(lambda file: write_tree(Tree(), file))
        kernel = store.kernel_of(manifest, "")
        if (kernel.image.digest, kernel.modules.digest) != (image.digest, modules.digest):
            raise _make_error("its digest is another")
        if (kernel.name, kernel.architecture) != (SMALL_KERNEL, architecture):
            raise _make_error("its record is of another kernel")
        store.put_record("kernel", build_kernel_key(architecture, SMALL_KERNEL), manifest)
    return store.find_kernel(architecture, SMALL_KERNEL)


def pack_kernel(kernel: Kernel) -> dict[str, bytes]:
    """Return the files of a kernel's directory in the package, by name.

    Raises:
        ImageCorrupted: the kernel in the store is damaged.
    """
    kernel.verify()
    record: dict[str, Any] = kernel.manifest
    # One thread and one format: the same bytes each time.
    with kernel.image.open() as file:
        packed = lzma.compress(file.read(), preset=9 | lzma.PRESET_EXTREME)
    return {IMAGE: packed, RECORD: manifests.encode_manifest("kernel", record)}


def _find_directory(architecture: str) -> Path | None:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    directory = Path(spec.submodule_search_locations[0], architecture)
    return directory if directory.is_dir() else None


def _unpack(packed: bytes) -> bytes:
    """Return an unpacked kernel.

    Raises:
        ImageCorrupted: the data is damaged or too long.
    """
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_KERNEL)
    try:
        data = decoder.decompress(packed, MAX_KERNEL + 1)
    except lzma.LZMAError as error:
        raise ImageCorrupted(f"{IMAGE} is damaged: {error}") from error
    if not decoder.eof or decoder.unused_data or len(data) > MAX_KERNEL:
        raise ImageCorrupted(f"{IMAGE} is truncated or too long")
    return data


def _make_error(reason: str) -> ImageError:
    return ImageError(
        f"the installed package slipway-kernel is damaged: {reason}",
        "Install it again, or remove it: pip uninstall slipway-kernel",
    )
