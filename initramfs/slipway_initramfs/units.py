"""Unit of memory and file sizes; twin of ``slipway._util.units``, which is above this package."""

from __future__ import annotations

MIB = 1 << 20


def format_mib(size: float, decimals: int = 1) -> str:
    """Return bytes in MiB: ``64 MiB``, or with at most ``decimals`` digits ``1.5 MiB``."""
    return f"{size / MIB:.{decimals if size % MIB else 0}f} MiB"
