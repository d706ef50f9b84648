"""Times, sizes, counts and paths on a command line."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from slipway._util.units import MIB

# Compiled when needed: most command lines have no quantity.
_NUMBER = r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)\s*"
_TIMES = {
    **dict.fromkeys(("", "s", "sec"), 1.0),
    "ms": 0.001,
    **dict.fromkeys(("m", "min"), 60.0),
    "h": 3600.0,
}
# GB and GiB are the same here: memory is counted in powers of 1024.
_SIZES = {"": MIB, "b": 1} | {
    f"{letter}{end}": 1024**power
    for power, letter in enumerate("kmgt", 1)
    for end in ("", "b", "ib")
}


def parse_seconds(text: str) -> float:
    """Return seconds of a number or of a time with a unit: ``5``, ``5s``, ``500ms``, ``2m``."""
    value = _parse_quantity(text, _TIMES)
    if value is None:
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is not a time; use a number of seconds, or 500ms, 5s, 2m"
        )
    return value


def parse_duration(text: str) -> float:
    """Return seconds, at least 0."""
    value = parse_seconds(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is a negative time; use 0 or more")
    return value


def parse_size(text: str) -> int:
    """Return bytes of a number of MiB or of a size with a unit: ``512``, ``64K``, ``2G``."""
    value = _parse_quantity(text, _SIZES)
    if value is None:
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is not a size; use a number of MiB, or 64K, 512M, 2G"
        )
    return round(value)


def parse_path(text: str) -> Path:
    """Return the path of a file or directory."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def parse_file_name(text: str) -> str:
    """Return the path of a file, or ``-`` for a standard stream."""
    return text if text == "-" else str(parse_path(text))


def parse_count(text: str) -> int:
    """Return a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a whole number") from None


def _parse_quantity(text: str, units: dict[str, float] | dict[str, int]) -> float | None:
    """Return the number in ``text`` times its unit, or None if ``text`` is not a quantity."""
    found = re.fullmatch(_NUMBER, text, re.ASCII)
    unit = None if found is None else units.get(found[2].lower())
    if found is None or unit is None:
        return None
    value = float(found[1]) * unit
    return value if math.isfinite(value) else None
