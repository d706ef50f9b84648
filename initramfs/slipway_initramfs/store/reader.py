"""Reader of the image store: lookups without a lock.

Every run imports this module: its own imports are fast.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.store import manifests
from slipway_initramfs.store.records import (
    DEBIAN_KERNEL,
    KERNELS,
    SMALL_KERNEL,
    Archive,
    Blob,
    Image,
    Kernel,
    build_image_key,
    build_kernel_key,
)
from slipway_initramfs.store.root import default_root

if TYPE_CHECKING:
    from pathlib import Path

# Kind of the records of kernels that were chosen, by architecture.
CHOICE_KIND = "kernel-choice"
# Digits of a digest that suffice to name an image.
MIN_PREFIX = 6


class StoreReader:
    """Read access to the data that runs share, below one directory.

    Lookups take no lock and import no slow modules. Methods raise ImageError, and ImageCorrupted if
    bytes in the store are damaged.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else default_root()
        self.temporary = self.root / "tmp"
        self.apt = self.root / "apt"
        self.layers = self.root / "layers"
        self.tree = TrustedTree(self.root)

    def image(self, name: str, architecture: str | None = None) -> Image | None:
        """Return the image with this name, or with a digest that begins with ``name``.

        A language's bare name stands for the version that ``set_default`` chose.

        Raises:
            ImageError: several images have such a digest.
            ImageCorrupted: the record is damaged.
        """
        if manifests.is_key(name):
            arch = architecture or machine_architecture()
            key = build_image_key(self.default(name, arch) or name, arch)
            if (digest := self.reference("image", key)) is not None:
                return self._load_image(key, digest)
        if len(name) >= MIN_PREFIX and not name.strip("0123456789abcdef"):
            found = [image for image in self.images() if image.digest.startswith(name)]
            if len(found) > 1:
                raise ImageError(f"several images have a digest that begins with {name}")
            return found[0] if found else None
        return None

    def images(self) -> list[Image]:
        """Return all images with intact records, sorted by name and architecture."""
        found = []
        for key in self.names("image"):
            with suppress(ImageCorrupted):
                if (digest := self.reference("image", key)) is not None:
                    found.append(self._load_image(key, digest))
        return sorted(found, key=lambda image: (image.name, image.architecture))

    def default(self, language: str, architecture: str | None = None) -> str:
        """Return the name of the image chosen for a language's bare name, or an empty string.

        The choice does not count for an architecture without such an image, by default the host's.
        """
        with suppress(ImageCorrupted):
            if name := self._read_choice(language):
                key = build_image_key(name, architecture or machine_architecture())
                return name if self.reference("image", key) is not None else ""
        return ""

    def find_architectures(self, name: str) -> list[str]:
        """Return the architectures that have an image called ``name``, sorted."""
        keys = (key.rpartition("-") for key in self.names("image"))
        return [architecture for found, _, architecture in keys if found == name]

    def is_choice(self, name: str, language: str) -> bool:
        """Return True if ``name`` was chosen for the bare name of ``language``."""
        with suppress(ImageCorrupted):
            return self._read_choice(language) == name
        return False

    def _read_choice(self, language: str) -> str:
        """Return the name of the chosen image, which may have been removed, or an empty string."""
        name = (self.record("default", language) or {}).get("image")
        return name if isinstance(name, str) and manifests.is_key(name) else ""

    def build_time(self, image: Image) -> str:
        """Return the time when an image was built (ISO 8601, UTC).

        The time is not in the manifest: equal images have equal digests.
        """
        try:
            path = self.root / "manifests" / f"{image.digest}.json"
            made = self.tree.examine_file(path).st_mtime
        except OSError as error:
            raise ImageCorrupted(
                f"the image {image.name!r} is missing in the store: {error}"
            ) from error
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made))

    def names(self, kind: str) -> list[str]:
        """Return the names of all records of a kind, sorted."""
        try:
            found = self.tree.list_directory(self.root / "refs" / kind)
        except OSError as error:
            raise self._make_read_error(error) from error
        # Network file systems may add files of their own.
        return sorted(filter(manifests.is_key, found))

    def _make_read_error(self, error: OSError) -> ImageError:
        return ImageError(
            f"cannot read the image store {self.root}: {error.strerror}",
            "Choose another place with --store, or XDG_CACHE_HOME.",
        )

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return a record's manifest, or None if the record is missing.

        Raises:
            ImageCorrupted: the record is damaged.
        """
        digest = self.reference(kind, key)
        return None if digest is None else self.manifest(kind, digest)

    def kernel(self, architecture: str | None = None) -> Kernel | None:
        """Return the kernel in use for an architecture (default: this machine's).

        It is the small kernel, if the store has one and ``choose_kernel`` has not chosen Debian's.

        Raises:
            ImageCorrupted: the record of Debian's kernel is damaged.
        """
        arch = architecture or machine_architecture()
        with suppress(ImageCorrupted):
            if self.kernel_choice(arch) != DEBIAN_KERNEL:
                small = self.find_kernel(arch, SMALL_KERNEL)
                if small is not None and small.is_current:
                    return small
        return self.find_kernel(arch, DEBIAN_KERNEL)

    def find_kernel(self, architecture: str, name: str) -> Kernel | None:
        """Return the kernel of this name, one of ``KERNELS``, in use or not.

        Raises:
            ImageCorrupted: the record is damaged.
        """
        key = build_kernel_key(architecture, name)
        digest = self.reference("kernel", key)
        return None if digest is None else self._load_kernel(key, digest)

    def kernels(self) -> list[Kernel]:
        """Return all kernels with intact records, sorted by architecture and name."""
        found = []
        for key in self.names("kernel"):
            with suppress(ImageCorrupted):
                if (digest := self.reference("kernel", key)) is not None:
                    found.append(self._load_kernel(key, digest))
        return sorted(found, key=lambda kernel: kernel.key)

    def kernel_choice(self, architecture: str) -> str:
        """Return the name of the kernel that was chosen, or an empty string.

        Raises:
            ImageCorrupted: the record of the choice is damaged.
        """
        record = self.record(CHOICE_KIND, architecture) or {}
        name = record.get("kernel")
        return name if name in KERNELS else ""

    def kernel_of(self, manifest: dict[str, Any], digest: str) -> Kernel:
        """Return the kernel that a record describes.

        Raises:
            ImageCorrupted: the record is not one of a kernel.
        """
        return Kernel(
            architecture=manifests.get_text(manifest, "architecture"),
            version=manifests.get_text(manifest, "version"),
            digest=digest,
            image=self._build_blob(manifest, "image"),
            modules=self._build_blob(manifest, "modules"),
            manifest=manifest,
        )

    def archive(self, kind: str, key: str) -> Archive | None:
        """Return the archive that ``put_archive`` stored as this kind and key, or None."""
        digest = self.reference(f"archive-{kind}", key)
        if digest is None:
            return None
        manifest = self.manifest(f"archive-{kind}", digest)
        return Archive(kind, key, digest, self._build_blob(manifest, "archive"))

    def reference(self, kind: str, key: str) -> str | None:
        """Return the digest of the record of this name, or None if missing or damaged."""
        if not manifests.is_key(key):
            raise ImageError(f"invalid name in the store: {key!r}")
        try:
            file = self.tree.open_file(self.root / "refs" / kind / key)
            try:
                digest = os.read(file, 65).decode("latin-1").strip()
            finally:
                os.close(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._make_read_error(error) from error
        return digest if manifests.is_digest(digest) else None

    def manifest(self, kind: str, digest: str) -> dict[str, Any]:
        """Return the manifest of this kind and digest.

        Raises:
            ImageCorrupted: the manifest is missing or damaged.
        """
        try:
            descriptor = self.tree.open_file(self.root / "manifests" / f"{digest}.json")
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                # Not MAX_MANIFEST + 1 bytes of every file: memory for them has to be mapped first.
                size = min(os.fstat(descriptor).st_size, manifests.MAX_MANIFEST)
                return manifests.parse_manifest(file.read(size + 1), kind)
        except OSError as error:
            raise ImageCorrupted(
                f"the {kind} {digest[:16]} is missing in the store: {error}"
            ) from error

    def blob(self, digest: str, size: int) -> Blob:
        """Return the blob of this digest; its file may be missing.

        Raises:
            ImageCorrupted: the digest is invalid.
        """
        if not manifests.is_digest(digest):
            raise ImageCorrupted(f"invalid digest of a blob in the store: {digest[:64]!r}")
        return Blob(self.root / "blobs" / digest, digest, size, self.tree)

    def _load_image(self, key: str, digest: str) -> Image:
        """Return the image of a record; one that was copied to another name would not boot."""
        image = self.image_of(self.manifest("image", digest), digest)
        if image.key != key:
            raise ImageCorrupted(f"the image {key} in the store is in truth {image.key}")
        return image

    def _load_kernel(self, key: str, digest: str) -> Kernel:
        """Return the kernel of a record; see :meth:`_load_image`."""
        kernel = self.kernel_of(self.manifest("kernel", digest), digest)
        if kernel.key != key:
            raise ImageCorrupted(f"the kernel {key} in the store is in truth {kernel.key}")
        return kernel

    def image_of(self, manifest: dict[str, Any], digest: str) -> Image:
        """Return the image that a record describes.

        Raises:
            ImageCorrupted: the record is not one of an image.
        """
        for key in ("memory", "workload", "files", "trimmed", "root"):
            manifests.get_count(manifest, key)
        if not isinstance(manifest.get("source"), dict):
            raise ImageCorrupted("a manifest in the store lacks the source of its image")
        return Image(
            name=manifests.get_text(manifest, "name"),
            architecture=manifests.get_text(manifest, "architecture"),
            digest=digest,
            root=self._build_blob(manifest, "archive"),
            manifest=manifest,
        )

    def _build_blob(self, manifest: dict[str, Any], key: str) -> Blob:
        entry = manifest.get(key)
        if not isinstance(entry, dict):
            raise ImageCorrupted(f"a manifest in the store lacks the digest of its {key}")
        return self.blob(manifests.get_text(entry, "digest"), manifests.get_count(entry, "size"))

    def blobs_of(self, kind: str, manifest: dict[str, Any]) -> list[Blob]:
        """Return the blobs that a record of an image or a kernel names.

        Raises:
            ImageCorrupted: the record is damaged.
        """
        names = {"image": ("archive", "warm"), "kernel": ("image", "modules")}[kind]
        found = [manifest[name] for name in names if name != "warm" or name in manifest]
        if not all(isinstance(entry, dict) for entry in found):
            raise ImageCorrupted("a manifest in the store lacks the names of its files")
        return [
            self.blob(manifests.get_text(entry, "digest"), manifests.get_count(entry, "size"))
            for entry in found
        ]
