"""Sets of words, as they are read best."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words in ``text``."""
    return frozenset(text.split())
