"""Times, sizes, counts and paths as a person writes them on a command line, or reads them."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

from slipway._model.options import MIB

# Patterns are compiled when they are needed: most runs name no quantity.
_NUMBER = r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)\s*"
_TIMES = {
    **dict.fromkeys(("", "s", "sec"), 1.0),
    "ms": 0.001,
    **dict.fromkeys(("m", "min"), 60.0),
    "h": 3600.0,
}
# A GB has 1024 MB here as the GiB has, which is how memory is counted.
_SIZES = {"": MIB, "b": 1} | {
    f"{letter}{end}": 1024**power
    for power, letter in enumerate("kmgt", 1)
    for end in ("", "b", "ib")
}


def seconds(text: str) -> float:
    """Read a number of seconds, or a time with a unit: ``5``, ``5s``, ``500ms``, ``2m``."""
    value = _read(text, _TIMES)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a time such as 5, 500ms or 2m")
    return value


def duration(text: str) -> float:
    """Read a time that is not negative."""
    value = seconds(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is a negative time")
    return value


def size(text: str) -> int:
    """Read bytes, from a number of MiB or one with a unit: ``512``, ``64K``, ``512MiB``, ``2G``."""
    value = _read(text, _SIZES)
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a size such as 64K, 512 or 2GiB")
    return round(value)


def file_path(text: str) -> Path:
    """Read the name of a file or directory."""
    if not text:
        raise argparse.ArgumentTypeError("'' is no path")
    return Path(text)


def file_name(text: str) -> str:
    """Read the name of a file, or ``-`` for a standard stream."""
    return text if text == "-" else str(file_path(text))


def count(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a whole number") from None


def mebibytes(size: int) -> int:
    """Return bytes as a person is told of them: in whole MiB."""
    return round(size / MIB)


def _read(text: str, units: dict[str, float] | dict[str, int]) -> float | None:
    """Return the number in ``text`` times its unit; nothing where it is no such quantity."""
    found = re.fullmatch(_NUMBER, text, re.ASCII)
    unit = None if found is None else units.get(found[2].lower())
    if found is None or unit is None:
        return None
    value = float(found[1]) * unit
    return value if math.isfinite(value) else None
