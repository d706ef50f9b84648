"""What is measured once per boot of the host and remembered in a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def once_per_boot(file: Path, measure: Callable[[], int]) -> int:
    """The number in ``file`` if it is of this boot of the host, else what ``measure`` gives now.

    Raises whatever ``measure`` raises. A file that cannot be written is measured again next time.
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
    # One short write: a reader sees all of it or nothing, and what is cut short is no number.
    with suppress(OSError):
        file.write_text(f"{boot} {measured}\n", "ascii")
    return measured
