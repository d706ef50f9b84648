"""Untrusted text (of a guest, of file names) without control characters, for a terminal."""

from __future__ import annotations


def to_plain_line(text: str) -> str:
    """Return ``text`` as one line without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def to_plain_lines(text: str) -> str:
    """Return ``text`` without control characters except line ends."""
    return "\n".join(map(to_plain_line, text.split("\n")))
