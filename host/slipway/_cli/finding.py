"""Finding of ``slipway doctor``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding about one part of the host: its state, and a fix if it is missing.

    ``needed`` is False for an optional part.
    """

    need: str
    met: bool
    found: str
    fix: str = ""
    needed: bool = True
