"""Removing from the store: images, what no reference leads to, what killed writers left.

Whoever removes holds the store's lock alone: a writer's blobs have no name yet.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipway_initramfs.disk import locks
from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.store import files, records

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from slipway_initramfs.store.reader import StoreReader


def remove_image(store: StoreReader, name: str, architecture: str | None = None) -> int:
    """Remove an image by language or digest prefix; return the bytes freed.

    Raises ImageError if there is no such image or if another process is building.
    """
    image = store.image(name, architecture)
    if image is None:
        raise ImageError(f"there is no image {name!r}", "See: slipway image list")
    with _lock_store(store):
        language = image.language
        was_default = store.default(language) == image.name
        key = f"{image.name}-{image.architecture}"
        (store.root / "refs" / "image" / key).unlink(missing_ok=True)
        if was_default and not store.default(language):
            # Or the choice would be back with the next image of that name.
            (store.root / "refs" / "default" / language).unlink(missing_ok=True)
        if not any(other.language == language for other in store.images()):
            # A language file that came with an image goes with the last one.
            (store.root / "refs" / "language" / language).unlink(missing_ok=True)
        return _collect_orphans(store)


def remove_record(store: StoreReader, kind: str, key: str) -> int:
    """Remove a record, sound or not, and what only it names; return the bytes freed.

    Raises ImageError if there is no such record or if another process is building.
    """
    if key not in store.names(kind):
        raise ImageError(f"there is no {kind} {key!r}", f"See: slipway {kind} list")
    with _lock_store(store):
        (store.root / "refs" / kind / key).unlink(missing_ok=True)
        return _collect_orphans(store)


def prune(store: StoreReader) -> int:
    """Remove what no name refers to, and the downloads; return the bytes freed.

    Raises ImageError if another process is building.
    """
    with _lock_store(store) as swept:
        return (
            swept
            + _collect_orphans(store)
            + sum(map(_remove_file, _list_prunable_downloads(store)))
        )


@dataclass(frozen=True, slots=True)
class PrunableFile:
    """A file that a prune would remove, and the bytes that it takes."""

    path: Path
    size: int


def find_prunable(
    store: StoreReader, without: Collection[tuple[str, str]] = ()
) -> list[PrunableFile]:
    """Return what ``prune`` would remove, were the records ``without`` (kind, key) gone.

    Nothing is changed. Raises ImageError if another process is building: what it has made so far
    has no name yet.
    """
    with _exclude_writers(store):
        _, orphans = _find_orphans(store, without)
        left = [
            Path(e.path)
            for e in _scan_directory(store.temporary)
            if e.is_file(follow_symlinks=False)
        ]
        found = [*orphans, *left, *_list_prunable_downloads(store)]
        return [PrunableFile(path, allocated_bytes(path)) for path in found]


def allocated_bytes(path: Path) -> int:
    """Return the bytes that a file takes on its disk, where holes take none; 0 if it is gone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, found.st_blocks * 512)


def list_downloads(store: StoreReader) -> list[Path]:
    """Return the files that were fetched, whole and in part, and can be fetched again."""
    places = [store.layers, store.apt / "downloads", *store.apt.glob("*/partial")]
    return [
        Path(entry.path) for place in places for entry in _scan_directory(place) if entry.is_file()
    ]


def tidy(store: StoreReader) -> None:
    """Remove what killed writers left and what has been replaced; call with the lock held alone."""
    _sweep_temporary(store)
    _collect_orphans(store)


def try_tidy(store: StoreReader) -> None:
    """Do what :func:`tidy` does, if nobody is writing; raises ImageError."""
    with locks.open_lock(store.root / "lock") as lock:
        if locks.try_lock_exclusive(lock):
            tidy(store)


@contextmanager
def _lock_store(store: StoreReader) -> Iterator[int]:
    """Keep others from building; give the bytes that killed writers had left."""
    files.make_directory(store, store.temporary)
    with locks.open_lock(store.root / "lock") as lock:
        if not locks.try_lock_exclusive(lock):
            raise _make_busy_error()
        yield _sweep_temporary(store)


@contextmanager
def _exclude_writers(store: StoreReader) -> Iterator[None]:
    """Keep others from building, without changing anything; a store that is not ours nobody can."""
    path = store.root / "lock"
    if not os.access(path, os.W_OK):
        yield
        return
    with locks.open_lock(path) as lock:
        if not locks.try_lock_exclusive(lock):
            raise _make_busy_error()
        yield


def _make_busy_error() -> ImageError:
    return ImageError("another process is making an image", "Try again when it is done.")


def _sweep_temporary(store: StoreReader) -> int:
    """Remove what killed writers left; the caller knows that nobody is writing."""
    return sum(
        _remove_file(Path(entry.path))
        for directory in (store.temporary, store.root / "locks")
        for entry in _scan_directory(directory)
        if entry.is_file(follow_symlinks=False)
    )


def _collect_orphans(store: StoreReader) -> int:
    """Remove manifests, blobs and initrds that no reference leads to; return the bytes freed."""
    references, orphans = _find_orphans(store)
    for path in references:
        path.unlink(missing_ok=True)
    return sum(map(_remove_file, orphans))


def _find_orphans(
    store: StoreReader, without: Collection[tuple[str, str]] = ()
) -> tuple[list[Path], list[Path]]:
    """Return the references that lead to nothing of use, and the files that none leads to."""
    digests: set[str] = set()
    blobs: set[str] = set()
    dead: list[Path] = []
    # In this order: a snapshot is of no use without its image.
    for kind in sorted(entry.name for entry in _scan_directory(store.root / "refs")):
        for key in store.names(kind):
            digest = store.reference(kind, key)
            try:
                manifest = store.manifest(kind, digest) if digest else None
            except ImageCorrupted:
                manifest = None
            if (
                # Damaged, or of another version's format: what it names cannot be kept for it.
                manifest is None
                or (kind == "snapshot" and f"{manifest.get('image_digest')}.json" not in digests)
                or (kind, key) in without
            ):
                dead.append(store.root / "refs" / kind / key)
                continue
            digests.add(f"{digest}.json")
            blobs |= records.digests_in(manifest)
    parts = {blob[:32] for blob in blobs}
    keepers: dict[str, Callable[[str], bool]] = {
        "manifests": digests.__contains__,
        "blobs": blobs.__contains__,
        "verified": blobs.__contains__,
        "initrds": lambda name: parts.issuperset(name.split("-")),
    }
    orphans = [
        Path(entry.path)
        for directory, keep in keepers.items()
        for entry in _scan_directory(store.root / directory)
        if entry.is_file(follow_symlinks=False) and not keep(entry.name)
    ]
    return dead, orphans


def _list_prunable_downloads(store: StoreReader) -> list[Path]:
    """Return the downloads that are this store's own, and not of another one that it links to."""
    own = not store.apt.is_symlink()
    return [path for path in list_downloads(store) if own or path.parent == store.layers]


def _remove_file(path: Path) -> int:
    """Remove a file; return the bytes freed."""
    freed = allocated_bytes(path)
    path.unlink(missing_ok=True)
    return freed


def _scan_directory(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
