"""``slipway image du`` and ``prune``: what takes space in a store, and what may go."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from slipway._cli.quantities import mebibytes
from slipway._cli.tables import Column, table
from slipway._cli.terminal import emit, say

if TYPE_CHECKING:
    import argparse

    from slipway_initramfs.store.disk_use import DiskUseEntry
    from slipway_initramfs.store.image_store import ImageStore

_REMOVERS = {
    "image": "slipway image remove",
    "snapshot": "slipway snapshot remove",
    "initrds": "(go with their images)",
    "packages": "slipway image prune",
    "layers": "slipway image prune",
    "unreferenced": "slipway image prune",
}


def show_use(parsed: argparse.Namespace, store: ImageStore) -> int:
    """Print what takes space.

    Raises:
        ImageError: of :mod:`slipway_initramfs.errors`; the store cannot be read.
    """
    from slipway_initramfs.store.disk_use import measure_disk_use

    found = measure_disk_use(store)
    if parsed.json:
        record = {
            "store": str(store.root),
            "bytes": found.total,
            "prunable": found.prunable,
            "uses": [
                {"kind": use.kind, "name": use.name, "bytes": use.size, "shared": use.shared}
                for use in found.uses
            ],
        }
        emit(json.dumps(record, indent=1) + "\n")
        return 0
    columns = (
        *(Column("WHAT"), Column("NAME", cut=True)),
        *(Column("MIB", right=True), Column("SHARED", right=True), Column("REMOVED BY", cut=True)),
    )
    rows = [
        (use.kind, use.name, mebibytes(use.size), mebibytes(use.shared), _remover(use))
        for use in found.uses
    ]
    emit(table(columns, [*rows, ("total", "", mebibytes(found.total), "", "")], sys.stdout))
    if found.prunable:
        say(f"slipway image prune would free {mebibytes(found.prunable)} MiB")
    return 0


def prune(parsed: argparse.Namespace, store: ImageStore) -> int:
    """Remove what is of no use any more, or say what that would be.

    Raises:
        ImageError: of :mod:`slipway_initramfs.errors`; another process is writing to the store.
    """
    from slipway._cli.snapshot import remove_stale, stale_keys
    from slipway_initramfs.store import garbage_collection

    if not parsed.dry_run:
        freed = remove_stale(store) + garbage_collection.prune(store)
        if parsed.json:
            emit(json.dumps({"bytes": freed}) + "\n")
        else:
            say(f"{mebibytes(freed)} MiB freed")
        return 0
    keys = stale_keys(store)
    doomed = garbage_collection.find_prunable(store, {("snapshot", key) for key in keys})
    total = sum(found.size for found in doomed)
    if parsed.json:
        files = [{"path": str(found.path), "bytes": found.size} for found in doomed]
        emit(json.dumps({"bytes": total, "snapshots": keys, "files": files}, indent=1) + "\n")
        return 0
    for key in keys:
        emit(f"stale snapshot {key}\n")
    sizes: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for found in doomed:
        place = str(found.path.parent.relative_to(store.root))
        sizes[place] += found.size
        numbers[place] += 1
    columns = (Column("BELOW"), Column("FILES", right=True), Column("MIB", right=True))
    rows = [(place, numbers[place], mebibytes(sizes[place])) for place in sorted(sizes)]
    if rows:
        emit(table(columns, rows, sys.stdout))
    say(f"{mebibytes(total)} MiB would be freed; nothing was removed")
    return 0


def _remover(use: DiskUseEntry) -> str:
    """Return the command that removes it, if there is one."""
    # The name of an image has its architecture at its end.
    name = use.name.rpartition("-")[0] if use.kind == "image" else use.name
    return f"{_REMOVERS[use.kind]} {name}".strip() if use.kind in _REMOVERS else ""
