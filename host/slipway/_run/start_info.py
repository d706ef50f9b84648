"""Start of a guest, for the provenance of results."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartInfo:
    """Start of a guest: its kind and the reasons, as in a result's provenance."""

    start: str = "cold"
    start_reason: str = ""
    machine_reason: str = ""
