"""Rules by which a server keeps a run and its output."""

# Not "from __future__ import annotations": the types of options are read at each start.
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from slipway._model.option import Option
from slipway._model.values import Bounds
from slipway._util.errors import InputError
from slipway._util.shares import Share
from slipway._util.units import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._server.peers import AllowList
    from slipway._server.socket_access import SocketAccess


_Seconds = Annotated[float, Bounds(0, math.inf, unit="s")]


class NoLongerKept(InputError):
    """Error about a part of the output that was kept once, and has been dropped."""


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """Owner of a run, and the choices of that client.

    ``owner`` is a user id. ``stream`` is ``raw`` or ``events``. A ``detached`` run goes on without
    a client. ``session`` is the id of the session that the run is part of; "" if it has its own
    machine. ``key`` is the owner's key.
    """

    owner: int
    stream: str = "raw"
    detached: bool = False
    session: str = ""
    key: str = ""

    @property
    def share(self) -> Share:
        """The owner and key."""
        return Share(str(self.owner), self.key)


@dataclass(frozen=True, slots=True)
class OutputChoice:
    """A client's choice of the form of a run's output, and of its end.

    ``stream`` and ``detached`` are as in :class:`RunPolicy`.
    """

    stream: str = "raw"
    detached: bool = False


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """Times that a server waits for clients, in seconds.

    ``reconnect``: for the return of a client that has left a run; then the run is cancelled.
    ``grace``: for a reader of the output of a run that has ended; then the output is dropped.
    ``stall``: for a reader of output that blocks its program; then the run is cancelled.
    """

    reconnect: Annotated[_Seconds, Option("time for a client to return")] = 10.0
    grace: Annotated[_Seconds, Option("time to keep unread output")] = 60.0
    stall: Annotated[_Seconds, Option("time for a program with blocked output")] = 300.0


@dataclass(frozen=True, slots=True)
class KeptBounds:
    """Bounds on the runs that have ended and are kept for a reader, and on the bytes of all."""

    kept_runs: Annotated[
        int, Bounds(1, math.inf), Option("ended runs kept for a reader, of all users")
    ] = 1024
    kept_budget: Annotated[
        int,
        Bounds(0, math.inf, above=True, unit="bytes"),
        Option("output and files of ended runs, of all users"),
    ] = 256 * MIB


@dataclass(frozen=True, slots=True)
class OutputSockets:
    """Directory of the output sockets, their mode and owner, and the users that may connect."""

    directory: "Path"
    access: "SocketAccess"
    allowed: "AllowList"
