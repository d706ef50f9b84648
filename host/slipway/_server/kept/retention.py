"""Rules by which a server keeps a run and its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._util.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._server.peers import AllowList
    from slipway._server.socket_access import SocketAccess


class NoLongerKept(InputError):
    """Error about a part of the output that was kept once, and has been dropped."""


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """Owner of a run, and the choices of that client.

    ``owner`` is a user id. ``stream`` is ``raw`` or ``events``. A ``detached`` run goes on without
    a client. ``session`` is the id of the session that the run is part of; "" if it has its own
    machine.
    """

    owner: int
    stream: str = "raw"
    detached: bool = False
    session: str = ""


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """Times that a server waits for clients, in seconds.

    ``reconnect``: for the return of a client that has left a run; then the run is cancelled.
    ``grace``: for a reader of the output of a run that has ended; then the output is dropped.
    ``stall``: for a reader of output that blocks its program; then the run is cancelled.
    """

    reconnect: float = 10.0
    grace: float = 60.0
    stall: float = 300.0


@dataclass(frozen=True, slots=True)
class OutputSockets:
    """Directory of the output sockets, their mode and owner, and the users that may connect."""

    directory: Path
    access: SocketAccess
    allowed: AllowList
