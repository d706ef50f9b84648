"""HTTP connection: its peer, and bounds on slow, large, malformed and half-closed requests.

uvicorn's protocol class does most of the work. ``Connection`` overrides the callbacks of an
``asyncio.Protocol`` and uvicorn's ``handle_events``, ``send_400_response``,
``on_response_complete`` and ``timeout_keep_alive_handler``, and reads uvicorn's ``conn``, ``flow``,
``cycle`` and ``timeout_keep_alive_task``. None of these is documented, so pyproject.toml bounds
uvicorn's version, and tests check the behaviour.
"""

from __future__ import annotations

import select
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from slipway._server.http.connection_table import Activity
from slipway._server.peers import read_peer
from slipway._server.problems import Problem
from slipway._util.shares import Share

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from uvicorn.server import ServerState

    from slipway._server.http.connection_table import ConnectionTable
    from slipway._server.peers import AllowList, Peer

# Bytes of a request's line and header fields.
MAX_HEAD = 32 * 1024
# Interval of checks for a client that has half closed, or that is not read from; each is a poll(2).
WATCH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """Minimum speed of clients. Times in seconds.

    ``head`` bounds the time for a request's line and header fields, ``body`` each pause within the
    body, which has to come at ``rate`` bytes per second on average; ``idle`` bounds the time
    between two requests, ``stall`` the time in which a client reads nothing of a response.
    """

    head: float = 10.0
    body: float = 10.0
    rate: float = 16 * 1024
    idle: int = 60
    stall: float = 60.0


@dataclass(frozen=True, slots=True)
class Gate:
    """Allowed users, connections at once, and minimum speed of clients."""

    allowed: AllowList
    connections: ConnectionTable
    pace: Pace

    def find_problem(self, connection: Connection, peer: Peer) -> Problem | None:
        """Return the reason to refuse a client, or count its connection and return None."""
        if not self.allowed.is_allowed(peer):
            return Problem(
                403,
                "forbidden",
                f"user {peer.uid} may not use this server",
                "Its operator can allow users: slipway serve --allow",
            )
        if not self.connections.admit(connection):
            return Problem(
                503,
                "too-many-connections",
                f"all {self.connections.holdings.bound} connections are in use",
                "Use fewer connections at once, or try again.",
                1.0,
            )
        return None


class GatedConfig(uvicorn.Config):
    """uvicorn's settings, with the gate for connections."""

    gate: Gate


class Connection(H11Protocol):
    """An HTTP/1.1 connection on a Unix socket."""

    config: GatedConfig

    def __init__(
        self,
        config: GatedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._gate = config.gate
        self._pace = config.gate.pace
        self._half_closed = False
        self._unsent = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.share = Share()
        self.active_at = self.loop.time()

    # --- For the table of connections ---------------------------------------------------------

    @property
    def activity(self) -> Activity:
        """What the connection does now; see :class:`Activity`."""
        if self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]:
            return Activity.SENDS_REQUEST
        return Activity.AWAITS_RESPONSE if self._is_busy else Activity.IDLE

    def give_way(self) -> None:
        """Close the connection for another user's; a request under way is answered or cancelled."""
        if self.activity is Activity.IDLE:
            self.transport.close()
        elif self.activity is Activity.SENDS_REQUEST:
            self._refuse(_GAVE_WAY)
        else:
            self.transport.abort()

    # --- Callbacks of asyncio -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Check the client's user and the number of connections."""
        super().connection_made(transport)
        try:
            peer = read_peer(transport.get_extra_info("socket"))
        except OSError:
            transport.abort()
            return
        # uvicorn copies this into the scope of each request.
        self.app_state = {**self.app_state, "peer": peer}
        self.share = Share(str(peer.uid))
        if problem := self._gate.find_problem(self, peer):
            self._refuse(problem)
        else:
            self._start_timer("head", self._pace.head, self._on_late_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers, and leave the place to others."""
        self._gate.connections.discard(self)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return True if the client still waits for a response (``nc -N``), False to close."""
        self._half_closed = True
        if self._is_gone():
            return False
        if self._is_busy and self.conn.their_state is not h11.SEND_BODY:
            self._watch_client()
            return True
        if self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]:
            self._refuse(_build_malformed("the request ends before its end"))
        return False

    def pause_writing(self) -> None:
        """Watch a client that does not read."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Stop watching a client that reads again."""
        self._stop_timer("stall")
        super().resume_writing()

    # --- Callbacks of uvicorn -----------------------------------------------------------------

    def handle_events(self) -> None:
        """Handle the received data, and start or stop the timer of the request's head."""
        super().handle_events()
        self.active_at = self.loop.time()
        if self.transport.is_closing():
            return
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer("head")
        elif self.conn.trailing_data[0] or self.timeout_keep_alive_task is None:
            self._start_timer("head", self._pace.head, self._on_late_head)
        self._watch_client()

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with a problem; ``msg`` has no details."""
        error = sys.exc_info()[1]  # uvicorn calls this while it handles h11's error
        status = getattr(error, "error_status_hint", 400)
        problem = _build_malformed(str(error) if error else msg)
        if status == 431:
            problem = Problem(
                431,
                "head-too-large",
                f"the request's line and header fields have more than {MAX_HEAD} bytes",
                "Send long values in the body.",
            )
        elif status == 501:
            problem = Problem(501, "not-implemented", str(error), "Use chunked, or Content-Length.")
        self._refuse(problem)

    def on_response_complete(self) -> None:
        """Close after the response of a half-closed connection, and watch slow readers."""
        super().on_response_complete()
        self.active_at = self.loop.time()
        if self.transport.is_closing():
            self._watch_reader()
        elif self._half_closed and not self._is_busy:
            self.transport.close()
            self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._watch_reader()

    # --- Timers and refusals --------------------------------------------------------------------

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call ``call`` after ``seconds``, unless a timer of this name is running."""
        if name not in self._timers:

            def fire() -> None:
                del self._timers[name]
                call()

            self._timers[name] = self.loop.call_later(seconds, fire)

    def _stop_timer(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()

    def _on_late_head(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(
                Problem(
                    408,
                    "slow-request",
                    f"the request's head did not come within {self._pace.head:g} s",
                    "Send it at once.",
                )
            )
        else:
            self.transport.close()

    def _watch_client(self) -> None:
        """Start periodic checks for a client whose end of stream would not be read."""
        if self._is_busy and (self._half_closed or self.flow.read_paused):
            self._start_timer("watch", WATCH_SECONDS, self._check_client)

    def _check_client(self) -> None:
        if self._is_gone():
            self.transport.abort()
        else:
            self._watch_client()

    def _is_gone(self) -> bool:
        """Tell if the client has closed the socket: both directions are then hung up."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))  # POLLHUP and POLLERR are always reported, poll(2)

    def _watch_reader(self) -> None:
        """Start a timer that closes the connection of a client that reads nothing."""
        self._unsent = self.transport.get_write_buffer_size()
        if self._unsent:
            self._start_timer("stall", self._pace.stall, self._check_reader)

    def _check_reader(self) -> None:
        if self.transport.get_write_buffer_size() >= self._unsent:
            self.transport.abort()
        else:
            self._watch_reader()

    def _refuse(self, problem: Problem) -> None:
        """Answer with ``problem``, unless a response has begun, and close."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = problem.encode_body()
            fields = [
                *problem.encode_headers(),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            ]
            messages = (
                h11.Response(status_code=problem.status, headers=fields),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for message in messages:
                self.transport.write(self.conn.send(message) or b"")
        if self._is_busy:  # this was its response
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self._watch_reader()


_GAVE_WAY = Problem(
    503,
    "too-many-connections",
    "all connections are in use, and another user, who has fewer, got this one",
    "Use fewer connections at once, or try again.",
    1.0,
)


def _build_malformed(reason: str) -> Problem:
    return Problem(400, "malformed", f"invalid HTTP/1.1: {reason}", "See RFC 9112.")
