"""What is shown, fitted to where it is shown: colours, widths, bars."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_COLOURS = {"bold": 1, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
# "unpacking 3/57 bash", "downloading sha256:12: 3.4 of 57 MB": steps that tell how far they are.
_COUNTED = r"(?s)\w+ (?:(\d{1,9})/(\d{1,9}) .*|\S+ (\d{1,9}(?:\.\d)?) of (\d{1,9}(?:\.\d)?) MB)"
_BAR = 20


def is_screen(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal on which the cursor can be moved."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def paint(text: str, colour: str, stream: TextIO) -> str:
    """Return ``text`` in a colour, where ``stream`` shows colours and nobody minds them.

    As on https://no-color.org: NO_COLOR has none anywhere, FORCE_COLOR has them in pipes as well.
    """
    environment = os.environ
    wanted = environment.get("FORCE_COLOR", "") not in {"", "0"} or is_screen(stream)
    if environment.get("NO_COLOR") or not wanted:
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def width_of(stream: TextIO) -> int:
    """Return the columns that ``stream`` has; what is no terminal has no bound."""
    return shutil.get_terminal_size().columns if stream.isatty() else sys.maxsize


def bar(step: str, width: int) -> str:
    """Return ``step`` in one line, with a bar and per cent where it is one of several."""
    counted = re.fullmatch(_COUNTED, step)
    done, total = (
        (float(number) for number in counted.groups() if number) if counted else (0.0, 0.0)
    )
    if not total:
        return f"slipway: {step}"[:width]
    part = min(1.0, done / total)
    filled = "#" * round(part * _BAR)
    return f"slipway: {filled:.<{_BAR}} {part:4.0%} {step}"[:width]
