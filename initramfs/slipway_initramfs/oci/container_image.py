"""Container images as sources of images."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from slipway_initramfs.disk import space
from slipway_initramfs.disk.spool import CHUNK
from slipway_initramfs.disk.trusted_tree import TrustedTree
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.oci.blob_cache import BlobCache
from slipway_initramfs.oci.layer_unpacking import unpack_layer
from slipway_initramfs.oci.layout import open_archive, open_layout
from slipway_initramfs.oci.manifests import LAYER_COMPRESSIONS
from slipway_initramfs.oci.platforms import resolve_image
from slipway_initramfs.oci.registry import Registry
from slipway_initramfs.progress import format_count
from slipway_initramfs.rootfs import defaults
from slipway_initramfs.units import format_mib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slipway_initramfs.debian.tools import Tools
    from slipway_initramfs.disk.spool import Spool
    from slipway_initramfs.oci.platforms import ResolvedImage
    from slipway_initramfs.oci.reference import Reference
    from slipway_initramfs.oci.registry import Access
    from slipway_initramfs.oci.repository import Descriptor, Repository
    from slipway_initramfs.progress import BuildProgress
    from slipway_initramfs.rootfs.layers import Dialect
    from slipway_initramfs.rootfs.tree import Tree
    from slipway_initramfs.store.image_store import ImageStore

# Limit on the unpacked layers of an image, in bytes; the root must fit into a guest.
MAX_UNPACKED = 8 << 30

_UNPACKERS = 2
_AHEAD = 3
# Unpacked size of a compressed layer as a multiple of its size, a high estimate.
_UNPACKED = 3
# Variables that the agent sets for each job; the image's values would be wrong there.
_OURS = frozenset({"HOME", "HOSTNAME", "LOGNAME", "PWD", "TMPDIR", "USER"})


class ContainerImage:
    """Container image for one architecture: the manifest is read, the layers are not."""

    kind = "registry"
    dialect: Dialect = "oci"
    trim: tuple[str, ...] = defaults.CONTAINER_TRIM

    def __init__(
        self,
        reference: Reference,
        repository: Repository,
        image: ResolvedImage,
        store: ImageStore,
        progress: BuildProgress,
    ) -> None:
        # True if a caller named this image, false if the language file did.
        self.chosen = False
        # The base set of tools, if the recipe wants it.
        self.tools: Tools | None = None
        self._reference = reference
        self._repository = repository
        self._image = image
        self._directory = store.layers
        self._cache = BlobCache(store.layers)
        self._temporary = store.temporary
        self._where = f"{reference.path}: " if reference.path else ""
        self._progress = progress

    @classmethod
    def resolve(
        cls,
        reference: Reference,
        store: ImageStore,
        access: Access,
        architecture: str,
        progress: BuildProgress,
    ) -> ContainerImage:
        """Find the image for ``architecture``.

        Raises:
            SourceUnavailable: the registry cannot be reached.
            BuildFailed: the registry refuses or lacks the image.
            ImageError: a document of the image is invalid.
        """
        progress.step(f"asking for {reference}")
        with _name_file_in_errors(reference):
            return cls._resolve(reference, store, access, architecture, progress)

    @classmethod
    def _resolve(
        cls,
        reference: Reference,
        store: ImageStore,
        access: Access,
        architecture: str,
        progress: BuildProgress,
    ) -> ContainerImage:
        repository: Repository
        if reference.transport == "docker":
            repository = Registry(reference, access)
        elif reference.transport == "oci":
            repository = open_layout(_require_path(reference), reference.tag)
        else:
            repository = open_archive(_require_path(reference), reference.tag)
        with ExitStack() as on_error:
            on_error.callback(repository.close)
            image = resolve_image(repository, architecture)
            on_error.pop_all()
        return cls(reference, repository, image, store, progress)

    def close(self) -> None:
        """Close connections and files."""
        self._repository.close()

    def key(self) -> dict[str, Any]:
        """Return the layers' content, the configuration and the added tools."""
        return {
            "layers": list(self._image.config.diff_ids),
            "config": self._build_config(),
            "tools": self.tools.key() if self.tools else [],
        }

    def layers(self) -> Iterator[tuple[str, Spool]]:
        """Yield each layer. All are fetched first; threads decompress ahead."""
        layers = self._image.manifest.layers
        total = sum(layer.size for layer in layers)
        if total > MAX_UNPACKED:
            raise ImageError(
                f"the layers of the image have {total >> 20} MiB, more than {MAX_UNPACKED >> 20}"
            )
        self._check_room(layers)
        if not self._repository.local:
            self._fetch_layers(layers, total)
        with ThreadPoolExecutor(_UNPACKERS) as pool:
            waiting = zip(layers, self._image.config.diff_ids, strict=True)
            pending: deque[Future[Spool]] = deque()
            left = MAX_UNPACKED
            try:
                for number, layer in enumerate(layers, 1):
                    # Bounded, as the unpacked sizes of these layers are not counted yet.
                    for job in islice(waiting, _AHEAD - len(pending)):
                        pending.append(pool.submit(self._unpack_layer, *job, left))
                    spool = pending.popleft().result()
                    self._progress.step(f"unpacking {number}/{len(layers)} layer {layer.label}")
                    left -= spool.size
                    if left < 0:
                        raise ImageError(f"the image unpacks to more than {MAX_UNPACKED >> 20} MiB")
                    yield f"{self._where}layer {layer.label}", spool
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _check_room(self, layers: tuple[Descriptor, ...]) -> None:
        """Check the disk for the downloads, the unpacked layers and the archive.

        Raises:
            DiskFull: the disk has too little space.
        """
        archive = unpack = 0
        for layer in layers:
            plain = LAYER_COMPRESSIONS.get(layer.media_type) == "none"
            unpack += max(0, layer.size) * (1 if plain else _UNPACKED)
            archive += max(0, layer.size) // (2 if plain else 1)
        fetched = 0 if self._repository.local else self._cache.missing(layers)
        purpose = f"unpacking the image {self._reference}"
        space.check_space(purpose, (self._directory, fetched), (self._temporary, unpack + archive))

    def prepare(self, tree: Tree) -> None:
        """Do nothing: the lowest layer is a complete root."""

    def complete(self, tree: Tree) -> list[str]:
        """Add the files that a container runtime would mount, and missing tools."""
        defaults.complete_container(tree)
        path = self._build_config()["environment"].get("PATH", "")
        return self.tools.add(tree, path) if self.tools else []

    def manifest(self) -> dict[str, Any]:
        """Return references (by name and by digest), layers, configuration and tools."""
        source: dict[str, Any] = {
            "kind": self.kind,
            "requested": str(self._reference),
            "chosen": self.chosen,
            "pinned": str(self._reference.pin(self._image.index_digest or self._image.digest)),
            "digest": self._image.digest,
            "created": self._image.config.created,
        }
        if self._image.index_digest:
            source["index"] = self._image.index_digest
        return {
            "source": source,
            "layers": [
                {"digest": layer.digest, "size": layer.size, "diff_id": diff_id}
                for layer, diff_id in zip(
                    self._image.manifest.layers, self._image.config.diff_ids, strict=True
                )
            ],
            "config": self._build_config(),
            **(self.tools.manifest() if self.tools else {}),
        }

    def _build_config(self) -> dict[str, Any]:
        config = self._image.config
        additions = {
            "SLIPWAY_IMAGE_WORKDIR": config.working_directory,
            "SLIPWAY_IMAGE_USER": config.user,
        }
        return {
            "environment": {
                **{name: value for name, value in config.environment if name not in _OURS},
                **{name: value for name, value in additions.items() if value},
            }
        }

    def _fetch_layers(self, layers: tuple[Descriptor, ...], total: int) -> None:
        count = format_count(len(layers), "layer")
        self._progress.step(f"downloading {count}, {format_mib(total, 0)}")
        self._cache.fetch_all(layers, self._repository, self._progress.transfer)

    def _unpack_layer(self, layer: Descriptor, diff_id: str, limit: int) -> Spool:
        def unpack(chunks: Iterator[bytes]) -> Spool:
            return unpack_layer(chunks, layer, diff_id, directory=self._temporary, limit=limit)

        if self._repository.local:
            with _name_file_in_errors(self._reference), self._repository.blob(layer) as chunks:
                return unpack(chunks)
        path = self._cache.fetch(layer, self._repository, self._progress.transfer)
        try:
            return unpack(read_chunks(path))
        except ImageCorrupted:
            # The cached blob may be damaged: fetch it again from the registry.
            self._cache.discard(layer)
            self._cache.fetch(layer, self._repository, self._progress.transfer)
            return unpack(read_chunks(path))


@contextmanager
def _name_file_in_errors(reference: Reference) -> Iterator[None]:
    """Prefix the messages of errors with the file of ``reference``."""
    try:
        yield
    except ImageError as error:
        if reference.path is None or str(reference.path) in error.message:
            raise
        raise type(error)(f"{reference.path}: {error.message}", error.hint) from error


def _require_path(reference: Reference) -> Path:
    assert reference.path is not None
    return reference.path


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a layer's file in chunks.

    Raises:
        ImageCorrupted: the file cannot be read.
    """
    try:
        with os.fdopen(TrustedTree(path.parent).open_file(path), "rb") as file:
            while data := file.read(CHUNK):
                yield data
    except OSError as error:
        raise ImageCorrupted(f"cannot read the layer {path.name[:12]}: {error.strerror}") from error
