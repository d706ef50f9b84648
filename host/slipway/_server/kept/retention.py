"""On what terms a server keeps a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._model.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._server.peers import AllowList
    from slipway._server.socket_access import Access

STREAMS = ("raw", "events")


class NoLongerKept(InputError):
    """What was asked for has been there, and is not kept any more."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the one who started a run asked for: ``stream`` is ``raw`` or ``events``.

    ``session`` is the id of the one that it runs in; empty where the run has its own machine.
    """

    owner: int
    stream: str = "raw"
    detached: bool = False
    session: str = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server waits for clients, in seconds.

    ``reconnect``: for one that left a run that goes on; then the run is cancelled.
    ``grace``: for somebody to read what a run that has ended left behind.
    ``stall``: for somebody to read what a program wrote that cannot go on writing.
    """

    reconnect: float = 10.0
    grace: float = 60.0
    stall: float = 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where output sockets are made, and who may use them."""

    directory: Path
    access: Access
    allowed: AllowList
