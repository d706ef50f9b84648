"""Snapshot in the store: its key, files and times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._snapshots.key import SnapshotKey
    from slipway_initramfs.store.records import Blob


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """Snapshot in the store, whose files may be lost or damaged.

    ``made`` and ``used`` are the times of its creation and last use, in seconds since 1970,
    ``disk_bytes`` the space that both files take on the disk, ``record`` the digest of its record
    and ``reference`` the file that names it.
    """

    key: SnapshotKey
    memory: Blob
    state: Blob
    made: int
    used: int = field(compare=False)
    disk_bytes: int
    record: str
    reference: Path
