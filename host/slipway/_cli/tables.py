"""Tables that fit into the width of the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._cli.screen import find_width, paint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

_CUT = "…"
_LEAST = 8


@dataclass(frozen=True, slots=True)
class Column:
    """Column of a table: aligned to the ``right``, or with long texts ``cut``."""

    heading: str
    right: bool = False
    cut: bool = False


def format_table(
    columns: Sequence[Column], rows: Sequence[Sequence[object]], stream: TextIO
) -> str:
    """Return the rows below headings, within the width of ``stream``.

    Columns with ``cut`` are cut to fit. If that is not enough, each row becomes several lines.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    limit = find_width(stream)
    widths = [
        max(len(column.heading), *(len(row[at]) for row in texts))
        for at, column in enumerate(columns)
    ]
    while sum(widths) + 2 * len(widths) - 2 > limit:
        able = [at for at, column in enumerate(columns) if column.cut and widths[at] > _LEAST]
        if not able:
            return _format_list(columns, texts, stream)
        widths[max(able, key=widths.__getitem__)] -= 1
    heading = _format_row(columns, [column.heading for column in columns], widths)
    lines = [paint(heading, "bold", stream), *(_format_row(columns, row, widths) for row in texts)]
    return "".join(f"{line}\n" for line in lines)


def _format_row(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    placed = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        shown = cell if len(cell) <= width else cell[: width - 1] + _CUT
        placed.append(shown.rjust(width) if column.right else shown.ljust(width))
    return "  ".join(placed).rstrip()


def _format_list(columns: Sequence[Column], rows: Sequence[Sequence[str]], stream: TextIO) -> str:
    blocks = []
    for first, *others in rows:
        lines = [paint(first, "bold", stream)]
        lines += [f"  {c.heading} {cell}" for c, cell in zip(columns[1:], others, strict=True)]
        blocks.append("".join(f"{line}\n" for line in lines))
    return "\n".join(blocks)
