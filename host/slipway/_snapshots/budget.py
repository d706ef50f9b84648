"""Budget of disk space for snapshots, and eviction of the least recently used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._model.runtime_options import MAX_SNAPSHOTS
from slipway._run.image_errors import translated_image_errors
from slipway._snapshots.lease import is_leased
from slipway._util.errors import ImageError
from slipway._util.units import format_mib

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from slipway._snapshots.key import SnapshotKey
    from slipway._snapshots.stored_snapshot import StoredSnapshot

# Divisor of the disk space that is free or taken by snapshots: the default budget is this part.
PART = 4


@dataclass(frozen=True, slots=True)
class SnapshotUse:
    """Disk use of all snapshots and their budget, in bytes."""

    used: int
    budget: int
    count: int

    def __str__(self) -> str:
        count = "1 snapshot takes" if self.count == 1 else f"{self.count} snapshots take"
        return f"{count} {format_mib(self.used, 0)} of at most {format_mib(self.budget, 0)}"


def measure_use(
    snapshots: Sequence[StoredSnapshot], root: Path, budget: int | None = None
) -> SnapshotUse:
    """Measure the disk use of ``snapshots`` in the store at ``root``.

    Without a ``budget`` the default is taken.

    Raises:
        ImageError: the store cannot be read.
    """
    used = sum(each.disk_bytes for each in snapshots)
    return SnapshotUse(
        used, _find_default(root, used) if budget is None else budget, len(snapshots)
    )


def find_surplus(
    snapshots: Sequence[StoredSnapshot], root: Path, budget: int | None = None
) -> list[StoredSnapshot]:
    """Return those of all ``snapshots`` to evict for ``budget``, least recently used first.

    Raises:
        ImageError: the store cannot be read.
    """
    use = measure_use(snapshots, root, budget)
    return _choose_unused(snapshots, use.used - use.budget)


def choose_evicted(
    snapshots: Sequence[StoredSnapshot],
    root: Path,
    key: SnapshotKey,
    needed: int,
    budget: int | None = None,
) -> list[StoredSnapshot]:
    """Return those of all ``snapshots`` to evict until one of ``key`` with ``needed`` bytes fits.

    The least recently used come first. A snapshot in use stays, and that which ``key`` replaces
    does not count.

    Raises:
        ImageError: the snapshot does not fit, or the store cannot be read.
    """
    found = [each for each in snapshots if not each.key.replaces(key)]
    use = measure_use(found, root, budget)
    lacking = use.used + needed - use.budget
    evicted = _choose_unused(found, lacking)
    if sum(each.disk_bytes for each in evicted) < lacking:
        kept = use.used - sum(each.disk_bytes for each in evicted)
        in_use = f", of which snapshots in use take {format_mib(kept, 0)}" if kept else ""
        raise ImageError(
            f"the snapshot {key.name} needs {format_mib(needed, 0)} or more, and the budget for"
            f" snapshots is {format_mib(use.budget, 0)}{in_use}",
            "Raise the budget (--snapshot-budget SIZE), or free disk space.",
        )
    return evicted


def _choose_unused(found: Sequence[StoredSnapshot], lacking: int) -> list[StoredSnapshot]:
    """Return the least recently used of ``found`` that free ``lacking`` bytes, or all unused."""
    chosen: list[StoredSnapshot] = []
    for each in sorted(found, key=lambda each: each.used):
        if lacking <= 0:
            break
        if not is_leased(each):
            chosen.append(each)
            lacking -= each.disk_bytes
    return chosen


def _find_default(root: Path, used: int) -> int:
    from slipway_initramfs.disk.space import count_free_bytes, find_existing

    with translated_image_errors():
        try:
            free = count_free_bytes(find_existing(root))
        except OSError as error:
            raise ImageError(
                f"cannot read the image store: {os.strerror(error.errno or 0)}"
            ) from None
    return MAX_SNAPSHOTS if free is None else min(MAX_SNAPSHOTS, (free + used) // PART)
