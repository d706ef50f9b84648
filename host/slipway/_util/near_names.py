"""Names that are nearly right, as callers without types write them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_NAME = 80


def hint_at(name: str, known: Iterable[str], otherwise: str) -> str:
    """Ask whether the nearest of ``known`` was meant; ``otherwise`` where none is near."""
    near = get_close_matches(name[:_MAX_NAME], known, n=1)
    return f"Did you mean {near[0]!r}?" if near else otherwise
