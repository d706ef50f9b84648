"""Disk space: estimates before long operations, and checks while other programs write.

apt hangs on a full disk, and a download that cannot be unpacked is useless. Needed space is
therefore estimated first. An estimate may be wrong: each writer also reports a full disk
(spool.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway_initramfs.errors import DiskFull
from slipway_initramfs.units import MIB, format_mib

if TYPE_CHECKING:
    from pathlib import Path

# Bytes that stay free for other programs.
MARGIN = 16 << 20
# Free bytes below which check_space_left calls a disk full.
LEAST = 64 << 10


def check_space(purpose: str, *needs: tuple[Path, int]) -> None:
    """Check that file systems have the space that a task needs.

    ``needs`` are directories, which need not exist yet, and the bytes that each will take; needs on
    the same file system add up. ``purpose`` names the task in messages, as a noun.

    Raises:
        DiskFull: a file system has too little space.
    """
    wanted: dict[int, int] = {}
    places: dict[int, Path] = {}
    for directory, size in needs:
        place = find_existing(directory)
        device = place.stat().st_dev
        wanted[device] = wanted.get(device, 0) + size
        places.setdefault(device, place)
    for device, size in wanted.items():
        place = places[device]
        free = count_free_bytes(place)
        if size and free is not None and free < size + MARGIN:
            lacking = _format_at_least(size + MARGIN - free)
            raise DiskFull(
                f"{purpose} needs about {_format_at_least(size + MARGIN)} below {place},"
                f" and the file system of {_find_mount_point(place)} has"
                f" {format_mib(free, 0)} free",
                f"Free {lacking} there ('slipway image du' shows the use of the store, 'slipway"
                " image prune' removes files that can be fetched again), or choose another place"
                " with --store.",
            )


def _format_at_least(size: int) -> str:
    return format_mib(-(-size // MIB) * MIB)


def check_space_left(directory: Path) -> None:
    """Check that the file system of ``directory`` is not full.

    Raises:
        DiskFull: no space or no inode is left.
    """
    found = os.statvfs(directory)
    # Only root can use the reserved blocks.
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    out_of_files = found.f_files and not found.f_ffree
    if found.f_blocks and (blocks * found.f_frsize < LEAST or out_of_files):
        raise make_full_error(directory)


def is_low(directory: Path) -> bool:
    """Check whether the file system of ``directory`` has less than twice MARGIN left."""
    free = count_free_bytes(directory)
    return free is not None and free < 2 * MARGIN


def make_full_error(directory: Path, reason: str = "No space left on device") -> DiskFull:
    """Return the error for a full disk."""
    return DiskFull(
        f"cannot write below {directory}, on the file system of"
        f" {_find_mount_point(find_existing(directory))}: {reason}",
        "Free some space there ('slipway image prune' removes files that can be fetched again), or"
        " choose another place with --store.",
    )


def count_free_bytes(place: Path) -> int | None:
    """Return the number of free bytes, or None if the file system does not report it."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def find_existing(directory: Path) -> Path:
    """Return the directory, or its nearest existing parent."""
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.resolve()


def _find_mount_point(place: Path) -> Path:
    """Return the topmost directory of the file system of ``place``."""
    device = place.stat().st_dev
    while place != place.parent and place.parent.stat().st_dev == device:
        place = place.parent
    return place
