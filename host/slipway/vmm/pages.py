"""Size of a page, and ranges of guest memory."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Range = tuple[int, int]
    """Start and end, in bytes from the start of the guest's memory."""

PAGE = 4096


def merge_ranges(ranges: Iterable[Range], gap: int = 0) -> list[Range]:
    """Return ``ranges`` in ascending order, joined where at most ``gap`` bytes lie between two."""
    result: list[Range] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1] + gap:
            result[-1] = result[-1][0], max(end, result[-1][1])
        else:
            result.append((start, end))
    return result
