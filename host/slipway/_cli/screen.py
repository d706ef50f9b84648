"""What is shown, fitted to where it is shown: colours, tables, bars."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_COLOURS = {"bold": 1, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
# "unpacking 3/57 bash": a step that tells which of how many it is.
_COUNTED = re.compile(r"(\w+) (\d{1,9})/(\d{1,9}) (.*)", re.DOTALL)
_BAR = 20
_CUT = "…"
_LEAST = 8


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
    counted = _COUNTED.fullmatch(step)
    if counted is None or not int(counted[3]):
        return f"slipway: {step}"[:width]
    part = min(1.0, int(counted[2]) / int(counted[3]))
    filled = "#" * round(part * _BAR)
    return f"slipway: {filled:.<{_BAR}} {part:4.0%} {step}"[:width]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: numbers stand ``right``, and long texts may be ``cut``."""

    heading: str
    right: bool = False
    cut: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[object]], stream: TextIO) -> str:
    """Return the rows below headings, within the width of ``stream``.

    What does not fit is cut where its column may be; where that is not enough, each row becomes
    lines of its own.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    limit = width_of(stream)
    widths = [
        max(len(column.heading), *(len(row[at]) for row in texts))
        for at, column in enumerate(columns)
    ]
    while sum(widths) + 2 * len(widths) - 2 > limit:
        able = [at for at, column in enumerate(columns) if column.cut and widths[at] > _LEAST]
        if not able:
            return _list(columns, texts, stream)
        widths[max(able, key=widths.__getitem__)] -= 1
    heading = _row(columns, [column.heading for column in columns], widths)
    lines = [paint(heading, "bold", stream), *(_row(columns, row, widths) for row in texts)]
    return "".join(f"{line}\n" for line in lines)


def _row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    placed = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        shown = cell if len(cell) <= width else cell[: width - 1] + _CUT
        placed.append(shown.rjust(width) if column.right else shown.ljust(width))
    return "  ".join(placed).rstrip()


def _list(columns: Sequence[Column], rows: Sequence[Sequence[str]], stream: TextIO) -> str:
    blocks = []
    for first, *others in rows:
        lines = [paint(first, "bold", stream)]
        lines += [f"  {c.heading} {cell}" for c, cell in zip(columns[1:], others, strict=True)]
        blocks.append("".join(f"{line}\n" for line in lines))
    return "\n".join(blocks)
