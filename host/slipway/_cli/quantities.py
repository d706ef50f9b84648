"""Times and sizes as a person writes them on a command line."""

from __future__ import annotations

import argparse
import math

from slipway._request import MIB

_UNITS = {"K": 1024, "M": MIB, "G": 1024 * MIB}


def seconds(text: str) -> float:
    """A number of seconds, not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a number of seconds")
    return value


def size(text: str) -> int:
    """Bytes, from a number of MiB or one with a unit."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "M")
    try:
        return round(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r:.80} is not a size such as 64K, 512 or 2G"
        ) from None
