"""Sets of words, written as one text."""

from __future__ import annotations


def split_words(text: str) -> frozenset[str]:
    """Return the set of words in ``text``."""
    return frozenset(text.split())
