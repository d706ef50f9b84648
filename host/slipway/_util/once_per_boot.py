"""Measurements that are done once per boot of the host, and kept in a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def measure_once_per_boot(file: Path, measure: Callable[[], int]) -> int:
    """Return the number in ``file`` if it is of this boot, else measure and write the file.

    Exceptions of ``measure`` are passed on. If the file cannot be written, the next call measures
    again.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    try:
        text = file.read_text("ascii")
        known, number = text.split()
        if known == boot and number.isdigit() and text.endswith("\n"):
            return int(number)
    except (OSError, ValueError):
        pass
    measured = measure()
    # One short write: a reader sees the whole line or rejects it.
    with suppress(OSError):
        file.write_text(f"{boot} {measured}\n", "ascii")
    return measured
