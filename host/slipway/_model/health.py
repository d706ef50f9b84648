"""Health of a server."""

from __future__ import annotations

from dataclasses import dataclass

from slipway._util.public import public


@public
@dataclass(frozen=True, slots=True)
class Health:
    """Health of a server: state ("ok"), version, machines, waiting runs, image store's path."""

    status: str
    version: str
    machines: int
    waiting: int
    store: str = ""
