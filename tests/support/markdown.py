"""The wrapping rule of Markdown pages: at most 100 columns, but for tables, code and long words.

``python tests/support/markdown.py PAGE...`` wraps the paragraphs and list items of pages anew.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
COLUMNS = 100

_FENCE = re.compile(r"^\s*(```|~~~)")
_ITEM = re.compile(r"^(\s*)([-*+]|\d+\.)(\s+)")
# Lines that are kept as they stand: tables, headings, quotes, HTML, admonitions, link definitions.
_VERBATIM = re.compile(r"^\s*(\||#|>|<|!!!|:::|\[[^\]]+\]:)")
# What begins a block of its own, and so must not begin a wrapped line by accident.
_BLOCK_START = re.compile(r"([-*+]|\d+[.)]|#{1,6}|>|\||:::|!!!|```|~~~)")


def find_pages() -> list[Path]:
    """Find the Markdown pages of the project; a checkout has no others in these places."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def find_long_lines(text: str) -> list[tuple[int, str]]:
    """Find the lines that are wider than ``COLUMNS`` and could be wrapped, with their numbers."""
    return [
        (number, line)
        for number, (line, is_prose) in enumerate(_classify(text), 1)
        if is_prose and len(line) > COLUMNS and re.search(r"\S\s+\S", _ITEM.sub("", line))
    ]


def wrap(text: str) -> str:
    """Wrap the paragraphs and list items of a page."""
    wrapped: list[str] = []
    block: list[str] = []

    def end_block() -> None:
        if block:
            wrapped.extend(_wrap_block(block))
            block.clear()

    for line, is_prose in _classify(text):
        if not is_prose or _ITEM.match(line):
            end_block()
        (block if is_prose else wrapped).append(line)
    end_block()
    return "\n".join(wrapped) + "\n"


def _classify(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each line, and True if it belongs to a paragraph or list item."""
    in_fence = in_prose = False
    content = 0  # column at which the text of the last list item begins
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        item = _ITEM.match(line)
        if _FENCE.match(line):
            in_fence = not in_fence
            in_prose = False
        elif in_fence or not line.strip() or _VERBATIM.match(line):
            in_prose = False
        elif item and indent < content + 4:
            in_prose, content = True, len(item[0])
        elif not in_prose:
            if indent == 0:
                content = 0
            in_prose = indent < content + 4  # deeper is code
        yield line, in_prose


def _wrap_block(lines: list[str]) -> list[str]:
    item = _ITEM.match(lines[0])
    first = item[0] if item else re.match(r"\s*", lines[0])[0]  # type: ignore[index]
    rest = " " * len(first)
    words = " ".join([lines[0][len(first) :], *(line.strip() for line in lines[1:])]).split(" ")
    joined: list[str] = []
    for word in words:  # a word that would begin a block stays with the word before it
        if joined and _BLOCK_START.fullmatch(word):
            joined[-1] += "\0" + word
        else:
            joined.append(word)
    return [
        line.replace("\0", " ")
        for line in textwrap.wrap(
            " ".join(joined),
            COLUMNS,
            initial_indent=first,
            subsequent_indent=rest,
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]):
        page.write_text(wrap(page.read_text()))
