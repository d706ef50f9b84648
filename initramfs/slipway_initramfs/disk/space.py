"""Room on the disk: asked for before something long begins, and watched where others write.

apt hangs on a full disk, and a download that cannot be unpacked was in vain; so that what is needed
is estimated first. An estimate may be wrong: whoever writes says what the disk said (spool.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway_initramfs.errors import DiskFull

if TYPE_CHECKING:
    from pathlib import Path

# Bytes that are left for others.
MARGIN = 16 << 20
# Free bytes below which a disk is full to whoever watches it.
LEAST = 64 << 10
_MB = 1_000_000


def check_space(purpose: str, *needs: tuple[Path, int]) -> None:
    """Raise DiskFull where a directory's file system has less room than it needs.

    ``needs`` are directories, which may have to be made yet, and the bytes that each will take;
    those on the same file system count together. ``purpose`` says what takes it, as a noun.
    """
    wanted: dict[int, int] = {}
    places: dict[int, Path] = {}
    for directory, size in needs:
        place = _find_existing(directory)
        device = place.stat().st_dev
        wanted[device] = wanted.get(device, 0) + size
        places.setdefault(device, place)
    for device, size in wanted.items():
        place = places[device]
        free = _count_free_bytes(place)
        if size and free is not None and free < size + MARGIN:
            lacking = -(-(size + MARGIN - free) // _MB)
            raise DiskFull(
                f"{purpose} takes about {-(-(size + MARGIN) // _MB)} MB below {place},"
                f" and the file system of {_find_mount_point(place)} has {free // _MB} MB free",
                f"Free {lacking} MB there ('slipway image du' shows what the store takes, 'slipway"
                " image prune' removes what can be had again), or choose another place with"
                " --store.",
            )


def check_space_left(directory: Path) -> None:
    """Raise DiskFull if the file system of ``directory`` is full."""
    found = os.statvfs(directory)
    # The blocks that are kept for root are no use to anybody else.
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    out_of_files = found.f_files and not found.f_ffree
    if found.f_blocks and (blocks * found.f_frsize < LEAST or out_of_files):
        raise make_full_error(directory)


def is_low(directory: Path) -> bool:
    """Whether the file system of ``directory`` has less than twice what is left for others."""
    free = _count_free_bytes(directory)
    return free is not None and free < 2 * MARGIN


def make_full_error(directory: Path, reason: str = "No space left on device") -> DiskFull:
    """Return the error for a disk that does not take any more."""
    return DiskFull(
        f"cannot write below {directory}, on the file system of"
        f" {_find_mount_point(_find_existing(directory))}: {reason}",
        "Free some space there ('slipway image prune' removes what can be had again), or choose"
        " another place with --store.",
    )


def _count_free_bytes(place: Path) -> int | None:
    """Return the bytes that are free; None where the file system does not tell."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def _find_existing(directory: Path) -> Path:
    """Return the directory, or the nearest above it that is there."""
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
