"""Text of a guest's, made fit for a person's terminal."""

from __future__ import annotations


def plain(text: str) -> str:
    """``text`` as one line without control characters: a terminal would obey them."""
    return "".join(c if c.isprintable() else " " for c in text)
