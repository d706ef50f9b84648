"""Settings of a server, those of the command line each declared once."""

# Not "from __future__ import annotations": the types of options are read at each start.
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from slipway._model.network import Network
from slipway._model.option import Option, read_options
from slipway._model.values import Bounds, check_bounds, read_field_types
from slipway._server.kept.retention import ClientTimeouts, KeptBounds
from slipway._server.socket_access import SocketAccess
from slipway._util.units import MIB

# The most bytes of all bodies together, unless the operator says another number.
HELD_BYTES = 256 * MIB

if TYPE_CHECKING:
    from slipway._server.http.connection import Pace
    from slipway._server.peers import AllowList


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of a server. Times in seconds, sizes in bytes.

    Attributes:
        api_socket: path of the API socket.
        allowed: users that may connect.
        run_directory: directory of the output sockets. Default: beside the API socket.
        access: mode and owner of all sockets.
        timeouts: times to wait for clients of output sockets.
        pace: minimum speed of clients of the API; None: that of ``Pace()``.
        body_limit: the most bytes of a JSON run request.
        drain: time for runs to end after ``Server.stop()``.
        descriptors: number of files that this process may have open.
        sessions: the most open sessions. Default: as many as machines.
        ceiling: bounds the networks that clients may request. Default: they may have none.
        body_budget: the most bytes of all bodies together: of those being read, and of runs that
            have not ended.
        connections: the most connections. Default: 4096, or half of ``descriptors``.
        kept: bounds on the runs that have ended and are kept for a reader.

    Raises:
        InputError: a value is out of bounds.
    """

    api_socket: Path
    allowed: "AllowList"
    run_directory: Annotated[
        Path | None,
        Option(
            "directory of the output sockets",
            default_help="PATH.d",
            flags=("--run-dir",),
            metavar="DIR",
        ),
    ] = None
    access: SocketAccess = field(default_factory=SocketAccess)
    timeouts: ClientTimeouts = field(default_factory=ClientTimeouts)
    pace: "Pace | None" = None
    body_limit: Annotated[
        int, Bounds(0, math.inf, above=True, unit="bytes"), Option("size of a request")
    ] = 64 * MIB
    drain: Annotated[
        float, Bounds(0, math.inf, unit="s"), Option("time for runs to end at shutdown")
    ] = 30.0
    descriptors: int = 1024
    sessions: Annotated[
        Annotated[int, Bounds(0, math.inf)] | None,
        Option(
            "sessions at once, to leave room for other runs",
            default_help="--max-machines",
            flags=("--max-sessions",),
        ),
    ] = None
    ceiling: Network | None = None
    body_budget: Annotated[
        int,
        Bounds(0, math.inf, above=True, unit="bytes"),
        Option("requests of all users together, of which one user may have seven eighths"),
    ] = HELD_BYTES
    connections: Annotated[
        Annotated[int, Bounds(1, math.inf)] | None,
        Option(
            "connections at once",
            default_help="4096, or half of the open files",
            flags=("--max-connections",),
        ),
    ] = None
    kept: KeptBounds = field(default_factory=KeptBounds)

    def __post_init__(self) -> None:
        for name, kind in read_field_types(ServerSettings).items():
            check_bounds(name, kind, getattr(self, name))


# Settings that the command line has as options, by name.
SERVER_OPTIONS = read_options(ServerSettings)
TIMEOUT_OPTIONS = read_options(ClientTimeouts)
KEPT_OPTIONS = read_options(KeptBounds)
