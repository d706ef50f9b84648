"""Checked form of a request for a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Job of a run, and the form of its output.

    ``options`` are fields of :class:`slipway.Options`. ``stdin`` is None if it comes later, as
    commands. ``language`` is empty for a run in a session, which has its own.
    """

    source: bytes
    language: str
    stdin: bytes | None
    options: Mapping[str, Any]
    stream: str = "raw"
    detached: bool = False
