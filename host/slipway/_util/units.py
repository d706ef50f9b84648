"""Units of memory and file sizes, in bytes, and their forms in messages; times of files."""

from __future__ import annotations

import time

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def format_size(size: int) -> str:
    """Return a size with the largest unit that divides it: ``4 MiB``, ``1234 bytes``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def format_mib(size: float, decimals: int = 1) -> str:
    """Return bytes in MiB: ``64 MiB``, or with at most ``decimals`` digits ``1.5 MiB``."""
    return f"{size / MIB:.{decimals if size % MIB else 0}f} MiB"


def format_transfer(done: int, total: int) -> str:
    """Return the progress of a transfer: ``3.4 of 57.0 MiB``."""
    return f"{done / MIB:.1f} of {total / MIB:.1f} MiB"


def to_mebibytes(size: int) -> int:
    """Return bytes in whole MiB, for a column of a table."""
    return round(size / MIB)


def format_time(seconds: int) -> str:
    """Return a time in seconds since 1970 as ``2026-11-30T12:00:00Z`` (ISO 8601, UTC)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
