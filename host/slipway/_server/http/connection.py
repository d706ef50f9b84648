"""One HTTP connection: who it is from, and how slow, large, malformed and half-closed it may be.

uvicorn's protocol class does the work. What is overridden here are the callbacks of an
``asyncio.Protocol`` and uvicorn's ``handle_events``, ``send_400_response`` and
``on_response_complete``; tests pin what is relied upon.
"""

from __future__ import annotations

import select
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from slipway._server.peers import peer_of
from slipway._server.problems import Problem

if TYPE_CHECKING:
    import asyncio

    from uvicorn.server import ServerState

    from slipway._server.peers import AllowList, Peer

# Of a request's line and header fields, in bytes.
MAX_HEAD = 32 * 1024
# How often a client that no longer sends, or is not read from, is looked at; it costs a poll(2).
WATCH_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """How slow a client may be. Times in seconds.

    ``head`` is for a request's line and header fields, ``body`` for any pause within its body,
    which has to come at ``rate`` bytes a second on the whole; ``idle`` is the time between two
    requests, ``stall`` the time in which a client has to take something of what it is sent.
    """

    head: float = 10.0
    body: float = 10.0
    rate: float = 16 * 1024
    idle: int = 60
    stall: float = 60.0


@dataclass(frozen=True, slots=True)
class Gate:
    """Who may connect, how many at once, and how slow they may be."""

    allowed: AllowList
    connections: int
    pace: Pace

    def refusal(self, peer: Peer, connections: int) -> Problem | None:
        """Why a client is not served; None where it is."""
        if not self.allowed.permits(peer):
            return Problem(
                403,
                "forbidden",
                f"user {peer.uid} may not use this server",
                "Whoever runs it can let you in: slipway serve --allow",
            )
        if connections > self.connections:
            return Problem(
                503,
                "too-many-connections",
                f"{self.connections} connections are open already, and no more may be",
                "Use fewer connections at once, or try again.",
                1.0,
            )
        return None


class GatedConfig(uvicorn.Config):
    """uvicorn's settings, and the gate that its connections pass."""

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

    # --- What asyncio tells -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        try:
            peer = peer_of(transport.get_extra_info("socket"))
        except OSError:
            transport.abort()
            return
        # uvicorn copies this into the scope of each request.
        self.app_state = {**self.app_state, "peer": peer}
        if problem := self._gate.refusal(peer, len(self.connections)):
            self._refuse(problem)
        else:
            self._after("head", self._pace.head, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. It may still wait for an answer (``nc -N``), or be gone."""
        self._half_closed = True
        if self._is_gone():
            return False
        if self._busy and self.conn.their_state is not h11.SEND_BODY:
            self._watch_client()
            return True
        if self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]:
            self._refuse(_malformed("the request ends before its end"))
        return False

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """It does."""
        self._call_off("stall")
        super().resume_writing()

    # --- What uvicorn calls -------------------------------------------------------------------

    def handle_events(self) -> None:
        """Go on with what has been received."""
        super().handle_events()
        if self.transport.is_closing():
            return
        if self.conn.their_state is not h11.IDLE:
            self._call_off("head")
        elif self.conn.trailing_data[0] or self.timeout_keep_alive_task is None:
            self._after("head", self._pace.head, self._head_is_late)
        self._watch_client()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; ``msg`` tells no more than that."""
        error = sys.exc_info()[1]  # uvicorn calls this where it has caught h11's error
        status = getattr(error, "error_status_hint", 400)
        problem = _malformed(str(error) if error else msg)
        if status == 431:
            problem = Problem(
                431,
                "head-too-large",
                f"the request's head has more than {MAX_HEAD} bytes",
                "Send long values in the body.",
            )
        elif status == 501:
            problem = Problem(501, "not-implemented", str(error), "Use chunked, or Content-Length.")
        self._refuse(problem)

    def on_response_complete(self) -> None:
        """A response has been written."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()
        elif self._half_closed and not self._busy:
            self.transport.close()
            self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came in time."""
        super().timeout_keep_alive_handler()
        self._watch_reader()

    # --- Ours -----------------------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _after(self, name: str, seconds: float, call: Any) -> None:
        """Have ``call`` called, unless a timer of that name runs already."""
        if name not in self._timers:

            def fire() -> None:
                del self._timers[name]
                call()

            self._timers[name] = self.loop.call_later(seconds, fire)

    def _call_off(self, name: str) -> None:
        if timer := self._timers.pop(name, None):
            timer.cancel()

    def _head_is_late(self) -> None:
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
        """Look now and then whether a client is gone whose end would not be read."""
        if self._busy and (self._half_closed or self.flow.read_paused):
            self._after("watch", WATCH_SECONDS, self._look)

    def _look(self) -> None:
        if self._is_gone():
            self.transport.abort()
        else:
            self._watch_client()

    def _is_gone(self) -> bool:
        """Whether the client has closed its end: then the socket hangs up in both directions."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))  # POLLHUP and POLLERR are always told, poll(2)

    def _watch_reader(self) -> None:
        """End the connection of a client that takes nothing of what waits for it."""
        self._unsent = self.transport.get_write_buffer_size()
        if self._unsent:
            self._after("stall", self._pace.stall, self._look_at_reader)

    def _look_at_reader(self) -> None:
        if self.transport.get_write_buffer_size() >= self._unsent:
            self.transport.abort()
        else:
            self._watch_reader()

    def _refuse(self, problem: Problem) -> None:
        """Answer with ``problem``, where no answer has begun, and close."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = problem.body()
            fields = [
                *problem.header_items(),
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
        if self._busy:  # its answer is this one
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self._watch_reader()


def _malformed(what: str) -> Problem:
    return Problem(400, "malformed", f"this is no HTTP/1.1: {what}", "See RFC 9112.")
