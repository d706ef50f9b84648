"""The image store: blobs named by their digest, manifests that name blobs, references by name.

    blobs/<sha256>              archives and kernels
    manifests/<sha256>.json     records (records.py)
    refs/<kind>/<key>           the digest of the record that has this name now
    initrds/<three digests>     concatenations, ready for QEMU's single -initrd
    apt/                        package lists and downloads
    layers/                     what registries gave, shared by all images (oci/cache.py)
    tmp/, lock, locks/          files being written; advisory locks

Everything is written to ``tmp``, synced and renamed, so that a reader, who takes no lock, sees
whole files only. Whoever writes holds ``lock`` shared; who finds that nobody does may sweep
``tmp``. The kernel drops the locks of a killed process, and so nothing can stay locked.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from slipway_initramfs import records
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.records import Archive, Blob, Image, Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INITRD_AGE: Final = 3600
"""Seconds since its last use after which a newer initrd of the same image replaces one."""
MIN_PREFIX: Final = 6
"""Fewest digits of a digest that name an image."""
_KEY_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.+-_@#"
)
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


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
        if _is_key(name):
            arch = architecture or machine_architecture()
            key = f"{self.default(name) or name}-{arch}"
            if (digest := self._reference("image", key)) is not None:
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
        for key in self._keys("image"):
            with suppress(ImageCorrupted):
                if (digest := self._reference("image", key)) is not None:
                    found.append(self._load_image(digest))
        return sorted(found, key=lambda image: (image.name, image.architecture))

    def default(self, language: str) -> str:
        """Return the name of the image that a language's bare name stands for, if one was chosen.

        An image that was removed is no choice any more.
        """
        with suppress(ImageCorrupted):
            record = self.record("default", language) or {}
            name = record.get("image")
            if isinstance(name, str) and _is_key(name):
                key = f"{name}-{machine_architecture()}"
                return name if self._reference("image", key) is not None else ""
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
        return self._keys(kind)

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return a record's manifest; ImageCorrupted if it is damaged."""
        digest = self._reference(kind, key)
        return None if digest is None else self._manifest(kind, digest)

    def kernel(self, architecture: str | None = None) -> Kernel | None:
        """Return the kernel for an architecture (default: this machine's)."""
        digest = self._reference("kernel", architecture or machine_architecture())
        if digest is None:
            return None
        manifest = self._manifest("kernel", digest)
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
        digest = self._reference(f"archive-{kind}", key)
        if digest is None:
            return None
        manifest = self._manifest(f"archive-{kind}", digest)
        return Archive(kind, key, digest, self._blob(manifest, "archive"))

    def _load_image(self, digest: str) -> Image:
        manifest = self._manifest("image", digest)
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

    def _keys(self, kind: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / "refs" / kind))
        except FileNotFoundError:
            return []

    def _reference(self, kind: str, key: str) -> str | None:
        """Return the digest of the record of this name; None if there is none (or no sound one)."""
        if not _is_key(key):
            raise ImageError(f"{key!r} cannot be a name in the store")
        try:
            with (self.root / "refs" / kind / key).open("rb") as file:
                digest = file.read(65).decode("latin-1").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ImageError(f"cannot read the image store: {error}") from error
        return digest if records.is_digest(digest) else None

    def _manifest(self, kind: str, digest: str) -> dict[str, Any]:
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
        for directory in (self.temporary, self.root / "blobs", self.root / "manifests"):
            self._make(directory)
        with _locked(self.root / "lock") as lock:
            if _try_lock(lock, fcntl.LOCK_EX):
                self._sweep()
                self._collect()
            fcntl.flock(lock, fcntl.LOCK_SH)
            self._make(self.root / "locks")
            with _locked(self.root / "locks" / name) as own:
                if not _try_lock(own, fcntl.LOCK_EX):
                    if progress is not None:
                        progress(f"waiting for another process that is making {name}")
                    fcntl.flock(own, fcntl.LOCK_EX)
                yield

    def put_blob(self, writer: Callable[[BinaryIO], object]) -> Blob:
        """Store what ``writer`` writes into the file it is given; call within ``building``."""
        import hashlib

        path = self._write(writer)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = os.fstat(file.fileno()).st_size
            target = self.root / "blobs" / digest
            path.replace(target)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Blob(target, digest, size)

    def put_record(self, kind: str, key: str, manifest: dict[str, Any]) -> str:
        """Store a manifest and let ``key`` name it; return its digest. Call within ``building``."""
        import hashlib
        import json

        if not _is_key(key):
            raise ImageError(f"{key!r} cannot be a name in the store")
        whole = {"format": records.FORMAT, "kind": kind, **manifest}
        data = json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n"
        digest = hashlib.sha256(data).hexdigest()
        self._write(lambda file: file.write(data)).replace(
            self.root / "manifests" / f"{digest}.json"
        )
        directory = self.root / "refs" / kind
        self._make(directory)
        self._write(lambda file: file.write(digest.encode())).replace(directory / key)
        _sync(directory)
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

    def _write(self, writer: Callable[[BinaryIO], object]) -> Path:
        """Return a synced temporary file with what ``writer`` wrote."""
        import tempfile

        from slipway_initramfs.spool import disk_error

        path: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.temporary, delete=False) as file:
                path = Path(file.name)
                writer(file)  # type: ignore[arg-type]
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
        except BaseException as error:
            if path is not None:
                path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise disk_error(error, self.root) from error
            raise
        return path

    def _make(self, directory: Path) -> None:
        from slipway_initramfs.spool import disk_error

        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.root) from error

    # -- the initrd ------------------------------------------------------------------------------

    def initrd(self, image: Image, kernel: Kernel | None, agent: Path) -> Path:
        """Return one file with the agent's archive, the kernel's modules and the image's root.

        Made once for each combination; ``agent`` is the path of an archive of this store. Without a
        kernel of this store there are no modules. The guest unpacks concatenated archives in their
        order; the uncompressed ones, padded to 512 bytes, come first, so that the compressed one
        needs no padding (Documentation/driver-api/early-userspace/buffer-format.rst).
        """
        if not records.is_digest(agent.name):
            raise ImageError(f"{agent} is not an archive of the image store")
        target = self._initrd_path(image, kernel, agent)
        parts = [agent, *((kernel.modules_archive,) if kernel else ()), image.root_archive]
        with suppress(OSError):
            size = sum(part.stat().st_size for part in parts)
            if target.stat().st_size == size:
                with suppress(OSError):  # somebody else's store can be used without writing to it
                    os.utime(target)
                return target
        image.quick_check()
        if kernel is not None:
            kernel.quick_check()
        with self.building(f"initrd-{target.name[:32]}"):
            self._make(target.parent)
            self._write(lambda file: _concatenate(parts, file)).replace(target)
            self._forget_others(target)
        return target

    def _forget_others(self, target: Path) -> None:
        """Remove this root's concatenations with other agents or kernels that are out of use."""
        oldest = time.time() - INITRD_AGE
        for entry in _entries(target.parent):
            same_root = entry.name[:32] == target.name[:32] and entry.name != target.name
            with suppress(FileNotFoundError):
                if same_root and entry.stat().st_mtime < oldest:
                    Path(entry.path).unlink()

    def verify_initrd(self, image: Image, kernel: Kernel | None, agent: Archive) -> None:
        """Read the initrd of this combination and compare each part's digest.

        A damaged one is removed, so that ``initrd`` makes it anew, and ImageCorrupted is raised.
        If the part in the store is damaged as well, only a new build helps: ``build_image`` and
        ``build_kernel`` verify what they find.
        """
        import hashlib

        path = self._initrd_path(image, kernel, agent.path)
        with path.open("rb") as file:
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

    def _initrd_path(self, image: Image, kernel: Kernel | None, agent: Path) -> Path:
        # Blobs are named by their digest.
        parts = (image.root.digest, agent.name, *((kernel.modules.digest,) if kernel else ()))
        return self.root / "initrds" / "-".join(part[:32] for part in parts)

    # -- removing --------------------------------------------------------------------------------

    def remove(self, name: str, architecture: str | None = None) -> int:
        """Remove an image by language or digest prefix; return the bytes freed.

        Raises ImageError if there is no such image or if another process is building.
        """
        image = self.image(name, architecture)
        if image is None:
            raise ImageError(f"there is no image {name!r}", "See: slipway image list")
        with self._alone():
            key = f"{image.name}-{image.architecture}"
            (self.root / "refs" / "image" / key).unlink(missing_ok=True)
            language = image.name.partition("@")[0]
            if not any(other.name.partition("@")[0] == language for other in self.images()):
                # A language file that came with an image goes with the last one.
                (self.root / "refs" / "language" / language).unlink(missing_ok=True)
            return self._collect()

    def set_default(self, name: str) -> str:
        """Let a language's bare name stand for the image ``name``; return the language's name.

        ``rust@1.80`` is what ``rust`` means then; ``rust`` takes that back. Raises ImageError if
        there is no such image.
        """
        language, _, version = name.partition("@")
        if version and self.image(name) is None:
            raise ImageError(f"there is no image {name!r}", f"Make it: slipway image build {name}")
        with self.building(f"default-{language}"):
            if version:
                self.put_record("default", language, {"image": name})
            elif _is_key(language):
                (self.root / "refs" / "default" / language).unlink(missing_ok=True)
        return language

    def prune(self) -> int:
        """Remove what no name refers to, and the downloads; return the bytes freed.

        Raises ImageError if another process is building.
        """
        with self._alone():
            freed = self._collect()
            freed += _clear(self.layers, lambda _: False)
            return freed + _clear(self.apt / "downloads", lambda _: False)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._make(self.temporary)
        with _locked(self.root / "lock") as lock:
            if not _try_lock(lock, fcntl.LOCK_EX):
                raise ImageError("another process is making an image", "Try again when it is done.")
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what killed writers left; the caller knows that nobody is writing."""
        _clear(self.temporary, lambda _: False)
        _clear(self.root / "locks", lambda _: False)

    def _collect(self) -> int:
        """Remove manifests, blobs and initrds that no reference leads to."""
        digests: set[str] = set()
        blobs: set[str] = set()
        for kind in sorted(entry.name for entry in _entries(self.root / "refs")):
            for key in self._keys(kind):
                digest = self._reference(kind, key)
                try:
                    manifest = self._manifest(kind, digest) if digest else None
                except ImageCorrupted:
                    manifest = None
                if manifest is None:
                    # Damaged, or of another version's format: what it names cannot be kept for it.
                    (self.root / "refs" / kind / key).unlink(missing_ok=True)
                    continue
                digests.add(f"{digest}.json")
                blobs.update(
                    entry["digest"]
                    for entry in manifest.values()
                    if isinstance(entry, dict) and isinstance(entry.get("digest"), str)
                )
        parts = {blob[:32] for blob in blobs}
        return (
            _clear(self.root / "manifests", digests.__contains__)
            + _clear(self.root / "blobs", blobs.__contains__)
            + _clear(self.root / "initrds", lambda name: parts.issuperset(name.split("-")))
        )


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a lock file; closing it releases whatever lock was taken on it."""
    from slipway_initramfs.spool import disk_error

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise disk_error(error, path.parent) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _concatenate(parts: list[Path], output: BinaryIO) -> None:
    output.flush()
    for part in parts:
        with part.open("rb") as source:
            left = os.fstat(source.fileno()).st_size
            while left:
                moved = os.sendfile(output.fileno(), source.fileno(), None, left)
                if not moved:
                    raise ImageCorrupted(f"{part.name[:16]} in the store is being cut short")
                left -= moved


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _clear(directory: Path, keep: Callable[[str], bool]) -> int:
    """Remove the files of a directory but those to keep; return their size in bytes."""
    freed = 0
    for entry in _entries(directory):
        if entry.is_file(follow_symlinks=False) and not keep(entry.name):
            freed += entry.stat(follow_symlinks=False).st_size
            Path(entry.path).unlink(missing_ok=True)
    return freed


def _sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_key(name: str) -> bool:
    """Whether ``name`` can be a file name of the store: no separators, no hidden files."""
    return 0 < len(name) <= 160 and name[0] != "." and _KEY_CHARACTERS.issuperset(name)
