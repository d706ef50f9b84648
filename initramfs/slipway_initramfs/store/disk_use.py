"""Disk use of a store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipway_initramfs.errors import ImageCorrupted, ImageError
from slipway_initramfs.store import manifests
from slipway_initramfs.store.garbage_collection import (
    allocated_bytes,
    find_prunable,
    list_downloads,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway_initramfs.store.image_store import ImageStore

# Kinds of records that name blobs, and their displayed names.
KINDS = {
    "image": "image",
    "kernel": "kernel",
    "archive-agent": "agent",
    "snapshot": "snapshot",
}


@dataclass(frozen=True, slots=True)
class DiskUseEntry:
    """Disk use of one thing: ``size`` bytes, of which ``shared`` bytes belong to others as well."""

    kind: str
    name: str
    size: int
    shared: int = 0


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Disk use of a store: ``total`` counts shared bytes once.

    ``prunable`` is the number of bytes that a prune would free, or None while another process
    writes to the store.
    """

    uses: tuple[DiskUseEntry, ...]
    total: int
    prunable: int | None


def measure_disk_use(store: ImageStore) -> DiskUse:
    """Measure the disk use of ``store``; links to other stores are not followed.

    Raises:
        ImageError: the store cannot be read.
    """
    try:
        sizes = {path: allocated_bytes(path) for path in _walk(store.root)}
    except OSError as error:
        raise ImageError(f"cannot read the image store: {error}") from error
    groups = {**_group_records(store), **_group_rest(store, sizes)}
    owners: dict[Path, int] = {}
    for paths in groups.values():
        for path in paths:
            owners[path] = owners.get(path, 0) + 1
    uses = []
    for (kind, name), paths in groups.items():
        there = [path for path in paths if path in sizes]
        shared = sum(sizes[path] for path in there if owners[path] > 1)
        if there:
            uses.append(DiskUseEntry(kind, name, sum(sizes[path] for path in there), shared))
    other = sum(size for path, size in sizes.items() if path not in owners)
    if other:
        uses.append(DiskUseEntry("records and locks", "", other))
    return DiskUse(tuple(uses), sum(sizes.values()), _measure_prunable(store))


def _group_records(store: ImageStore) -> dict[tuple[str, str], set[Path]]:
    """Return the blobs of each record, by displayed kind and name."""
    groups: dict[tuple[str, str], set[Path]] = {}
    for kind, called in KINDS.items():
        for key in store.names(kind):
            try:
                manifest = store.record(kind, key)
            except ImageCorrupted:
                continue
            if manifest is not None:
                # Agents of many sources are mostly equal; their keys are not shown.
                name = key.partition("-")[0] if called == "agent" else key
                digests = manifests.find_digests(manifest)
                blobs = groups.setdefault((called, name), set())
                blobs |= {store.root / "blobs" / digest for digest in digests}
    return groups


def _group_rest(store: ImageStore, sizes: dict[Path, int]) -> dict[tuple[str, str], set[Path]]:
    """Return the files that belong to no record, by displayed kind."""
    named = set().union(*_group_records(store).values())
    lists = store.apt.glob("*/**/*")
    fetched = set(list_downloads(store))
    return {
        ("initrds", ""): _find_below(sizes, store.root / "initrds"),
        ("packages", ""): {path for path in fetched if path.parent != store.layers},
        ("layers", ""): {path for path in fetched if path.parent == store.layers},
        ("package lists", ""): {path for path in lists if path in sizes} - fetched,
        ("unreferenced", ""): (
            _find_below(sizes, store.root / "blobs") | _find_below(sizes, store.temporary)
        )
        - named,
    }


def _find_below(sizes: dict[Path, int], directory: Path) -> set[Path]:
    return {path for path in sizes if path.parent == directory}


def _measure_prunable(store: ImageStore) -> int | None:
    try:
        return sum(found.size for found in find_prunable(store))
    except ImageError:
        return None


def _walk(root: Path) -> Iterator[Path]:
    """Yield all files; directories that are links are not followed."""
    for place, _, names in os.walk(root):
        yield from (Path(place, name) for name in names)
