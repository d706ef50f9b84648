"""``slipway image du`` and ``prune``: disk use of a store, and removal of unused files."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from slipway._cli.snapshot_budget import read_budget_variable, read_snapshot_budget
from slipway._cli.tables import Column, format_table
from slipway._cli.terminal import print_text, write_line
from slipway._snapshots.budget import find_surplus, measure_use
from slipway._snapshots.store import SnapshotStore
from slipway._util.units import format_mib, format_time, to_mebibytes
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.store.records import DEBIAN_KERNEL

if TYPE_CHECKING:
    import argparse

    from slipway_initramfs.store.disk_use import DiskUseEntry
    from slipway_initramfs.store.image_store import ImageStore

_REMOVERS = {
    "image": "slipway image remove",
    "kernel": "slipway kernel remove",
    "snapshot": "slipway snapshot remove",
    "initrds": "(removed with their images)",
    "packages": "slipway image prune",
    "layers": "slipway image prune",
    "unreferenced": "slipway image prune",
}


def show_use(parsed: argparse.Namespace, store: ImageStore) -> int:
    """Print the disk use of the store.

    Raises:
        ImageError: of :mod:`slipway_initramfs.errors`; the store cannot be read.
    """
    from slipway_initramfs.store.disk_use import measure_disk_use

    found = measure_disk_use(store)
    used = _list_last_uses(store)
    if parsed.json:
        record = {
            "store": str(store.root),
            "bytes": found.total,
            "prunable": found.prunable,
            "uses": [
                {
                    "kind": use.kind,
                    "name": use.name,
                    "bytes": use.size,
                    "shared": use.shared,
                    **({"used": used[use.name]} if _is_snapshot(use, used) else {}),
                }
                for use in found.uses
            ],
        }
        print_text(json.dumps(record, indent=1) + "\n")
        return 0
    columns = (
        *(Column("KIND"), Column("NAME", cut=True)),
        *(Column("MIB", right=True), Column("SHARED", right=True)),
        *(Column("LAST USED", cut=True), Column("REMOVED BY", cut=True)),
    )
    rows = [
        (
            *(use.kind, use.name, to_mebibytes(use.size), to_mebibytes(use.shared)),
            *(used[use.name] if _is_snapshot(use, used) else "", _find_remover(use)),
        )
        for use in found.uses
    ]
    total = ("total", "", to_mebibytes(found.total), "", "", "")
    print_text(format_table(columns, [*rows, total], sys.stdout))
    write_line(str(measure_use(SnapshotStore(store).list(), store.root, read_budget_variable())))
    if found.prunable:
        write_line(f"to free {format_mib(found.prunable, 0)}: slipway image prune")
    return 0


def prune_store(parsed: argparse.Namespace, store: ImageStore) -> int:
    """Remove unused files, or list them with --dry-run.

    Raises:
        ImageError: of :mod:`slipway_initramfs.errors`; another process is writing to the store.
    """
    from slipway._cli.snapshot import find_stale_keys, remove_snapshots
    from slipway_initramfs.store import garbage_collection

    budget = read_snapshot_budget(parsed)
    stale = find_stale_keys(store)
    current = [each for each in SnapshotStore(store).list() if each.key.name not in stale]
    surplus = find_surplus(current, store.root, budget)
    keys = [*stale, *(each.key.name for each in surplus)]
    if not parsed.dry_run:
        freed = remove_snapshots(keys, store) + garbage_collection.prune(store)
        if parsed.json:
            print_text(json.dumps({"bytes": freed}) + "\n")
        else:
            write_line(f"freed {format_mib(freed, 0)}")
        return 0
    doomed = garbage_collection.find_prunable(store, {("snapshot", key) for key in keys})
    total = sum(found.size for found in doomed)
    if parsed.json:
        files = [{"path": str(found.path), "bytes": found.size} for found in doomed]
        print_text(json.dumps({"bytes": total, "snapshots": keys, "files": files}, indent=1) + "\n")
        return 0
    for key in keys:
        reason = "stale snapshot" if key in stale else "snapshot over the budget"
        print_text(f"{reason} {key}\n")
    sizes: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for found in doomed:
        place = str(found.path.parent.relative_to(store.root))
        sizes[place] += found.size
        numbers[place] += 1
    columns = (Column("DIRECTORY"), Column("FILES", right=True), Column("MIB", right=True))
    rows = [(place, numbers[place], to_mebibytes(sizes[place])) for place in sorted(sizes)]
    if rows:
        print_text(format_table(columns, rows, sys.stdout))
    write_line(f"would free {format_mib(total, 0)}; removed nothing (--dry-run)")
    return 0


def _list_last_uses(store: ImageStore) -> dict[str, str]:
    """Return the time of the last use of each snapshot, by its key's name."""
    return {each.key.name: format_time(each.used) for each in SnapshotStore(store).list()}


def _is_snapshot(use: DiskUseEntry, used: dict[str, str]) -> bool:
    return use.kind == "snapshot" and use.name in used


def _find_remover(use: DiskUseEntry) -> str:
    """Return the command that removes an entry, or an empty text."""
    if use.kind not in _REMOVERS:
        return ""
    name = use.name
    if use.kind == "image":
        # Its entry's name ends with the architecture.
        name, _, architecture = name.rpartition("-")
        if architecture != machine_architecture():
            name = f"--arch {architecture} {name}"
    elif use.kind == "kernel":
        # That of a kernel begins with the architecture.
        architecture, _, name = name.partition("-")
        name = f"{name or DEBIAN_KERNEL} --arch {architecture}"
    return f"{_REMOVERS[use.kind]} {name}".strip()
