"""Removing from the store: images, what no reference leads to, what killed writers left.

Whoever removes holds the store's lock alone: a writer's blobs have no name yet.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slipway_initramfs import files, locks
from slipway_initramfs.errors import ImageCorrupted, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway_initramfs.store import ImageStore


def remove_image(store: ImageStore, name: str, architecture: str | None = None) -> int:
    """Remove an image by language or digest prefix; return the bytes freed.

    Raises ImageError if there is no such image or if another process is building.
    """
    image = store.image(name, architecture)
    if image is None:
        raise ImageError(f"there is no image {name!r}", "See: slipway image list")
    with _alone(store):
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
        return _collect(store)


def remove_record(store: ImageStore, kind: str, key: str) -> int:
    """Remove a record, sound or not, and what only it names; return the bytes freed.

    Raises ImageError if there is no such record or if another process is building.
    """
    if key not in store.names(kind):
        raise ImageError(f"there is no {kind} {key!r}", f"See: slipway {kind} list")
    with _alone(store):
        (store.root / "refs" / kind / key).unlink(missing_ok=True)
        return _collect(store)


def prune(store: ImageStore) -> int:
    """Remove what no name refers to, and the downloads; return the bytes freed.

    Raises ImageError if another process is building.
    """
    with _alone(store):
        freed = _collect(store)
        freed += _clear(store.layers)
        if store.apt.is_symlink():
            return freed  # another store's: not this one's to empty
        halves = sum(map(_clear, store.apt.glob("*/partial")))
        return freed + halves + _clear(store.apt / "downloads")


def downloads(store: ImageStore) -> list[Path]:
    """Return the files that were fetched, whole and in part, and can be fetched again."""
    places = [store.layers, store.apt / "downloads", *store.apt.glob("*/partial")]
    return [Path(entry.path) for place in places for entry in _entries(place) if entry.is_file()]


def tidy(store: ImageStore) -> None:
    """Remove what killed writers left and what has been replaced; call with the lock held alone."""
    _sweep(store)
    _collect(store)


def try_tidy(store: ImageStore) -> None:
    """Do what :func:`tidy` does, if nobody is writing; raises ImageError."""
    with locks.opened(store.root / "lock") as lock:
        if locks.try_exclusive(lock):
            tidy(store)


@contextmanager
def _alone(store: ImageStore) -> Iterator[None]:
    files.make_directory(store, store.temporary)
    with locks.opened(store.root / "lock") as lock:
        if not locks.try_exclusive(lock):
            raise ImageError("another process is making an image", "Try again when it is done.")
        _sweep(store)
        yield


def _sweep(store: ImageStore) -> None:
    """Remove what killed writers left; the caller knows that nobody is writing."""
    _clear(store.temporary)
    _clear(store.root / "locks")


def _collect(store: ImageStore) -> int:
    """Remove manifests, blobs and initrds that no reference leads to; return the bytes freed."""
    digests: set[str] = set()
    blobs: set[str] = set()
    # In this order: a snapshot is of no use without its image.
    for kind in sorted(entry.name for entry in _entries(store.root / "refs")):
        for key in store.names(kind):
            digest = store.reference(kind, key)
            try:
                manifest = store.manifest(kind, digest) if digest else None
            except ImageCorrupted:
                manifest = None
            if manifest is None:
                # Damaged, or of another version's format: what it names cannot be kept for it.
                (store.root / "refs" / kind / key).unlink(missing_ok=True)
                continue
            if kind == "snapshot" and f"{manifest.get('image_digest')}.json" not in digests:
                (store.root / "refs" / kind / key).unlink(missing_ok=True)
                continue
            digests.add(f"{digest}.json")
            blobs.update(
                entry["digest"]
                for entry in manifest.values()
                if isinstance(entry, dict) and isinstance(entry.get("digest"), str)
            )
    parts = {blob[:32] for blob in blobs}
    return (
        _clear(store.root / "manifests", digests.__contains__)
        + _clear(store.root / "blobs", blobs.__contains__)
        + _clear(store.root / "verified", blobs.__contains__)
        + _clear(store.root / "initrds", lambda name: parts.issuperset(name.split("-")))
    )


def _clear(directory: Path, keep: Callable[[str], bool] = lambda _: False) -> int:
    """Remove the files of a directory but those to keep; return the bytes freed."""
    freed = 0
    for entry in _entries(directory):
        if entry.is_file(follow_symlinks=False) and not keep(entry.name):
            found = entry.stat(follow_symlinks=False)
            # Holes take no room.
            freed += min(found.st_size, found.st_blocks * 512)
            Path(entry.path).unlink(missing_ok=True)
    return freed


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
