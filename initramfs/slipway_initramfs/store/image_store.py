"""Image store: blobs named by digest, manifests that name blobs, references by name.

    blobs/<sha256>              archives, kernels; snapshots, named by their content without holes
    manifests/<sha256>.json     records (records.py)
    refs/<kind>/<key>           digest of the current record of this name
    initrds/<three digests>     agent, modules and root in one file (initrds.py)
    apt/                        package lists and downloads
    layers/                     blobs of registries, shared by all images (oci/blob_cache.py)
    verified/<sha256>           blobs that were fully checked since the host's last boot
    tmp/, lock, locks/          unfinished files; advisory locks

Each file is written to ``tmp``, synced and renamed (files.py). Readers take no lock, and see
complete files only. A writer holds ``lock`` shared (locks.py). A process that gets ``lock``
exclusively may remove ``tmp`` and unreferenced files (garbage_collection.py). The kernel releases
the locks of a killed process: no lock can stay behind.

Every run imports this module: modules that only writers need are imported on demand.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.store import manifests
from slipway_initramfs.store.reader import CHOICE_KIND, StoreReader
from slipway_initramfs.store.records import DEBIAN_KERNEL, Archive, Blob, make_kernel_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _ignore(line: str) -> None:
    """Drop a line of progress."""


class ImageStore(StoreReader):
    """Image store below one directory: lookups and the methods that write to it.

    All methods raise ImageError; ImageCorrupted means that bytes in the store are damaged.
    """

    @contextmanager
    def building(self, name: str, progress: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the right to build ``name``; a second builder of the same name waits.

        Remains of killed builders and replaced images are removed first, if no other process is
        writing.
        """
        from slipway_initramfs.disk import locks
        from slipway_initramfs.store import files, garbage_collection

        for directory in (self.temporary, self.root / "blobs", self.root / "manifests"):
            files.make_directory(self, directory)
        with locks.open_lock(self.tree, self.root / "lock") as lock:
            if locks.try_lock_exclusive(lock):
                garbage_collection.tidy(self)
            report = progress if progress is not None else _ignore
            locks.lock_shared(lock, "removing files of the store", report)
            files.make_directory(self, self.root / "locks")
            with locks.open_lock(self.tree, self.root / "locks" / name) as own:
                if not locks.try_lock_exclusive(own):
                    report(f"waiting for another process that is building {name}")
                    locks.lock_exclusive(own, f"building {name}", report)
                yield

    def put_blob(
        self, writer: Callable[[BinaryIO], object], digest_of: Callable[[int], str] | None = None
    ) -> Blob:
        """Store a blob with the bytes that ``writer`` writes into a file. Call within ``building``.

        ``digest_of`` computes the blob's name, in the form of a SHA-256, from a descriptor of the
        file; for files with holes, which are not read in full.
        """
        import hashlib

        from slipway_initramfs.store import files

        path = files.write_aside(self, writer)
        with ExitStack() as on_error:
            on_error.callback(path.unlink, missing_ok=True)
            with os.fdopen(self.tree.open_file(path), "rb") as file:
                if digest_of is not None:
                    digest = digest_of(file.fileno())
                else:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = os.fstat(file.fileno()).st_size
            target = self.root / "blobs" / digest
            files.publish(self, path, target)
            on_error.pop_all()
        return Blob(target, digest, size, self.tree)

    def put_record(self, kind: str, key: str, manifest: dict[str, Any]) -> str:
        """Store a manifest as ``key``; return its digest. Call within ``building``."""
        import hashlib

        from slipway_initramfs.store import files

        if not manifests.is_key(key):
            raise ImageError(f"invalid name in the store: {key!r}")
        data = manifests.encode_manifest(kind, manifest)
        digest = hashlib.sha256(data).hexdigest()
        aside = files.write_aside(self, lambda file: file.write(data))
        files.publish(self, aside, self.root / "manifests" / f"{digest}.json")
        directory = self.root / "refs" / kind
        files.make_directory(self, directory)
        aside = files.write_aside(self, lambda file: file.write(digest.encode()))
        files.publish(self, aside, directory / key)
        files.sync(directory)
        return digest

    def put_archive(self, kind: str, key: str, writer: Callable[[BinaryIO], object]) -> Archive:
        """Return the archive of this kind and key; write it if it is missing or damaged.

        ``key`` must identify all inputs of the archive. ``writer`` receives a binary file, and is
        called at most once, while other processes that need the same archive wait.
        """
        with self.building(f"archive-{kind}-{key}"):
            with suppress(ImageCorrupted):
                if (found := self.archive(kind, key)) is not None:
                    found.verify()
                    return found
            blob = self.put_blob(writer)
            manifest = {"archive": {"digest": blob.digest, "size": blob.size}}
            digest = self.put_record(f"archive-{kind}", key, manifest)
        return Archive(kind, key, digest, blob)

    def set_default(self, name: str) -> str:
        """Let a language's bare name stand for the image ``name``; return the language's name.

        ``rust@1.80`` makes ``rust`` mean that image on each architecture that has it; ``rust``
        resets the choice.

        Raises:
            ImageError: the image is unknown, or the name invalid.
        """
        from slipway_initramfs.store import files

        language, _, version = name.partition("@")
        if not manifests.is_key(language):
            raise ImageError(f"invalid name in the store: {language[:80]!r}")
        if version and not self.find_architectures(name):
            raise ImageError(f"unknown image {name!r}", f"Build it: slipway image build {name}")
        with self.building(f"default-{language}"):
            if version:
                self.put_record("default", language, {"image": name})
            else:
                files.remove_file(self, self.root / "refs" / "default" / language)
        return language

    def choose_kernel(self, name: str, architecture: str) -> None:
        """Let machines of an architecture boot the kernel of this name.

        Raises:
            ImageError: the kernel is not in the store. Debian's is fetched by the next run.
        """
        if name != DEBIAN_KERNEL and self.find_kernel(architecture, name) is None:
            raise make_kernel_error(architecture, name)
        with self.building(f"kernel-choice-{architecture}"):
            self.put_record(CHOICE_KIND, architecture, {"kernel": name})
