"""Text of a guest's, or of a file's name, made fit for a person's terminal."""

from __future__ import annotations


def plain(text: str) -> str:
    """``text`` as one line without control characters: a terminal would obey them."""
    return "".join(c if c.isprintable() else " " for c in text)


def plain_lines(text: str) -> str:
    """``text`` without control characters but those that end lines."""
    return "\n".join(map(plain, text.split("\n")))
