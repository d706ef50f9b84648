"""Colours, widths and progress bars of a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_COLOURS = {"bold": 1, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
# Steps with a count: "unpacking 3/57 bash", "downloading sha256:12: 3.4 of 57.0 MiB".
_COUNTED = r"(?s)\w+ (?:(\d{1,9})/(\d{1,9}) .*|\S+ (\d{1,9}(?:\.\d)?) of (\d{1,9}(?:\.\d)?) MiB)"
_BAR = 20


def is_screen(stream: TextIO) -> bool:
    """Return True if ``stream`` is a terminal with a movable cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def paint(text: str, colour: str, stream: TextIO) -> str:
    """Return ``text`` in a colour, if ``stream`` is a terminal.

    See https://no-color.org: NO_COLOR turns colours off, FORCE_COLOR turns them on in pipes too.
    """
    environment = os.environ
    wanted = environment.get("FORCE_COLOR", "") not in {"", "0"} or is_screen(stream)
    if environment.get("NO_COLOR") or not wanted:
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def find_width(stream: TextIO) -> int:
    """Return the columns of ``stream``; sys.maxsize if it is not a terminal."""
    if not stream.isatty():
        return sys.maxsize
    import shutil

    return shutil.get_terminal_size().columns


def format_step(step: str, width: int) -> str:
    """Return ``step`` in one line; a step with a count gets a bar and per cent."""
    import re

    counted = re.fullmatch(_COUNTED, step)
    done, total = (
        (float(number) for number in counted.groups() if number) if counted else (0.0, 0.0)
    )
    if not total:
        return f"slipway: {step}"[:width]
    part = min(1.0, done / total)
    filled = "#" * round(part * _BAR)
    return f"slipway: {filled:.<{_BAR}} {part:4.0%} {step}"[:width]
