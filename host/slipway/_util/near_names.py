"""Suggestions for names with slips."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_NAME = 80


def find_near_names(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Return at most ``count`` of the ``known`` names that are similar to ``name``."""
    return get_close_matches(name[:_MAX_NAME], list(known), n=count)


def suggest_name(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return a question that suggests the nearest of ``known``, or ``otherwise``."""
    near = find_near_names(name, known)
    return f"Did you mean {near[0]!r}?" if near else otherwise
