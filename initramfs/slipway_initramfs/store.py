"""The image store: blobs named by their digest, manifests that name blobs, references by name.

    blobs/<sha256>              archives and kernels; snapshots, named by what is in them but holes
    manifests/<sha256>.json     records (records.py)
    refs/<kind>/<key>           the digest of the record that has this name now
    initrds/<three digests>     agent, modules and root as one file (initrds.py)
    apt/                        package lists and downloads
    layers/                     what registries gave, shared by all images (oci/cache.py)
    verified/<sha256>           blobs that were checked as a whole in this boot of the host
    tmp/, lock, locks/          files being written; advisory locks

Everything is written to ``tmp``, synced and renamed (files.py), so that a reader, who takes no
lock, sees whole files only. Whoever writes holds ``lock`` shared (locks.py); who finds that nobody
does may sweep ``tmp`` and what no reference leads to (collection.py). The kernel drops the locks of
a killed process, and so nothing can stay locked.

This module is on the way of every run: what only writers need is imported when they write.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from slipway_initramfs import records
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.records import Archive, Blob, Image, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Fewest digits of a digest that name an image.
MIN_PREFIX = 6
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def default_root() -> Path:
    """Return ``$XDG_CACHE_HOME/slipway``, or ``~/.cache/slipway``."""
    # The XDG base directory specification has relative values ignored.
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".cache"
    return base / "slipway"


def machine_architecture() -> str:
    """Return Debian's name of this machine's architecture; ImageError for an unknown one."""
    machine = os.uname().machine
    try:
        return _ARCHITECTURES[machine]
    except KeyError:
        raise ImageError(f"no images for the architecture {machine!r}") from None


class ImageStore:
    """All that is kept between runs, below one directory.

    Looking something up takes no lock and imports nothing slow. Methods raise ImageError, and
    ImageCorrupted where the store's bytes are not what they have to be.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else default_root()
        self.temporary = self.root / "tmp"
        self.apt = self.root / "apt"
        self.layers = self.root / "layers"

    # -- looking up ------------------------------------------------------------------------------

    def image(self, name: str, architecture: str | None = None) -> Image | None:
        """Return the image of this name, or that whose digest begins with ``name``.

        A language's name without a version stands for the version that ``set_default`` chose.
        """
        if records.is_key(name):
            arch = architecture or machine_architecture()
            key = f"{self.default(name) or name}-{arch}"
            if (digest := self.reference("image", key)) is not None:
                return self._load_image(digest)
        if len(name) >= MIN_PREFIX and not name.strip("0123456789abcdef"):
            found = [image for image in self.images() if image.digest.startswith(name)]
            if len(found) > 1:
                raise ImageError(f"several images have a digest that begins with {name}")
            return found[0] if found else None
        return None

    def images(self) -> list[Image]:
        """Return all images, sorted by name and architecture; damaged records are left out."""
        found = []
        for key in self.names("image"):
            with suppress(ImageCorrupted):
                if (digest := self.reference("image", key)) is not None:
                    found.append(self._load_image(digest))
        return sorted(found, key=lambda image: (image.name, image.architecture))

    def default(self, language: str) -> str:
        """Return the name of the image that a language's bare name stands for, if one was chosen.

        An image that was removed is no choice any more.
        """
        with suppress(ImageCorrupted):
            record = self.record("default", language) or {}
            name = record.get("image")
            if isinstance(name, str) and records.is_key(name):
                key = f"{name}-{machine_architecture()}"
                return name if self.reference("image", key) is not None else ""
        return ""

    def built(self, image: Image) -> str:
        """Return when an image was made (ISO 8601, UTC).

        That stands in no manifest: the same image made twice is to have the same digest.
        """
        try:
            made = (self.root / "manifests" / f"{image.digest}.json").stat().st_mtime
        except OSError as error:
            raise ImageCorrupted(f"the store has lost {image.name!r}: {error}") from error
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made))

    def names(self, kind: str) -> list[str]:
        """Return the names of all records of a kind, sorted."""
        try:
            found = [entry.name for entry in os.scandir(self.root / "refs" / kind)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unreadable(error) from error
        # Network file systems leave files of their own there.
        return sorted(filter(records.is_key, found))

    def _unreadable(self, error: OSError) -> ImageError:
        return ImageError(
            f"cannot read the image store {self.root}: {error.strerror}",
            "Choose another place with --store, or XDG_CACHE_HOME.",
        )

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return a record's manifest; ImageCorrupted if it is damaged."""
        digest = self.reference(kind, key)
        return None if digest is None else self.manifest(kind, digest)

    def kernel(self, architecture: str | None = None) -> Kernel | None:
        """Return the kernel for an architecture (default: this machine's)."""
        digest = self.reference("kernel", architecture or machine_architecture())
        if digest is None:
            return None
        return self.kernel_of(self.manifest("kernel", digest), digest)

    def kernel_of(self, manifest: dict[str, Any], digest: str) -> Kernel:
        """Return the kernel of this record; raises ImageCorrupted if it is none."""
        return Kernel(
            architecture=records.text(manifest, "architecture"),
            version=records.text(manifest, "version"),
            digest=digest,
            image=self._blob(manifest, "image"),
            modules=self._blob(manifest, "modules"),
            manifest=manifest,
        )

    def archive(self, kind: str, key: str) -> Archive | None:
        """Return what ``put_archive`` stored under this kind and key."""
        digest = self.reference(f"archive-{kind}", key)
        if digest is None:
            return None
        manifest = self.manifest(f"archive-{kind}", digest)
        return Archive(kind, key, digest, self._blob(manifest, "archive"))

    def reference(self, kind: str, key: str) -> str | None:
        """Return the digest of the record of this name; None if there is none (or no sound one)."""
        if not records.is_key(key):
            raise ImageError(f"{key!r} cannot be a name in the store")
        try:
            with (self.root / "refs" / kind / key).open("rb") as file:
                digest = file.read(65).decode("latin-1").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from error
        return digest if records.is_digest(digest) else None

    def manifest(self, kind: str, digest: str) -> dict[str, Any]:
        """Return the manifest of this kind and digest; ImageCorrupted if it is lost or damaged."""
        try:
            with (self.root / "manifests" / f"{digest}.json").open("rb") as file:
                return records.parse(file.read(records.MAX_MANIFEST + 1), kind)
        except OSError as error:
            raise ImageCorrupted(f"the store has lost the {kind} {digest[:16]}: {error}") from error

    def blob(self, digest: str, size: int) -> Blob:
        """Return the blob of this digest, which may be missing; ImageCorrupted if it is none."""
        if not records.is_digest(digest):
            raise ImageCorrupted(f"{digest[:64]!r} is no digest of a blob in the store")
        return Blob(self.root / "blobs" / digest, digest, size)

    def _load_image(self, digest: str) -> Image:
        return self.image_of(self.manifest("image", digest), digest)

    def image_of(self, manifest: dict[str, Any], digest: str) -> Image:
        """Return the image of this record; raises ImageCorrupted if it is none."""
        for key in ("memory", "workload", "files", "trimmed", "root"):
            records.count(manifest, key)
        if not isinstance(manifest.get("source"), dict):
            raise ImageCorrupted("a manifest in the store does not say where its image comes from")
        return Image(
            name=records.text(manifest, "name"),
            architecture=records.text(manifest, "architecture"),
            digest=digest,
            root=self._blob(manifest, "archive"),
            manifest=manifest,
        )

    def _blob(self, manifest: dict[str, Any], key: str) -> Blob:
        entry = manifest.get(key)
        if not isinstance(entry, dict):
            raise ImageCorrupted(f"a manifest in the store has no digest for its {key}")
        return self.blob(records.text(entry, "digest"), records.count(entry, "size"))

    # -- writing ---------------------------------------------------------------------------------

    @contextmanager
    def building(self, name: str, progress: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the right to make ``name``; a second builder of it waits here for the first.

        What killed builders and replaced images left behind is swept on the way, if nobody else is
        writing.
        """
        from slipway_initramfs import collection, files, locks

        for directory in (self.temporary, self.root / "blobs", self.root / "manifests"):
            files.make_directory(self, directory)
        with locks.opened(self.root / "lock") as lock:
            if locks.try_exclusive(lock):
                collection.tidy(self)
            locks.share(lock)
            files.make_directory(self, self.root / "locks")
            with locks.opened(self.root / "locks" / name) as own:
                if not locks.try_exclusive(own):
                    if progress is not None:
                        progress(f"waiting for another process that is making {name}")
                    locks.exclusive(own)
                yield

    def put_blob(
        self, writer: Callable[[BinaryIO], object], digest_of: Callable[[int], str] | None = None
    ) -> Blob:
        """Store what ``writer`` writes into the file it is given; call within ``building``.

        ``digest_of`` gives the blob's name from a descriptor of it, in the form of a SHA-256: for
        files with holes, which are not to be read through.
        """
        import hashlib

        from slipway_initramfs import files

        path = files.write_aside(self, writer)
        try:
            with path.open("rb") as file:
                if digest_of is not None:
                    digest = digest_of(file.fileno())
                else:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = os.fstat(file.fileno()).st_size
            target = self.root / "blobs" / digest
            files.publish(self, path, target)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Blob(target, digest, size)

    def put_record(self, kind: str, key: str, manifest: dict[str, Any]) -> str:
        """Store a manifest and let ``key`` name it; return its digest. Call within ``building``."""
        import hashlib

        from slipway_initramfs import files

        if not records.is_key(key):
            raise ImageError(f"{key!r} cannot be a name in the store")
        data = records.encode(kind, manifest)
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
        """Return the archive of this kind and key, made by ``writer`` if there is no sound one.

        ``key`` has to stand for all that the archive's bytes depend on. ``writer`` is called at
        most once, while other processes that want the same archive wait, with a binary file.
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

        ``rust@1.80`` is what ``rust`` means then; ``rust`` takes that back. Raises ImageError if
        there is no such image.
        """
        language, _, version = name.partition("@")
        if not records.is_key(language):
            raise ImageError(f"{language[:80]!r} cannot be a name in the store")
        if version and self.image(name) is None:
            raise ImageError(f"there is no image {name!r}", f"Make it: slipway image build {name}")
        with self.building(f"default-{language}"):
            if version:
                self.put_record("default", language, {"image": name})
            else:
                (self.root / "refs" / "default" / language).unlink(missing_ok=True)
        return language
