"""Client of a run's output: its rights, its commands, and its time to come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slipway._server.kept.command_reader import CommandReader
from slipway._server.peers import read_peer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from slipway._server.kept.change_notifier import ChangeNotifier
    from slipway._server.kept.command_reader import CommandTarget
    from slipway._server.kept.retention import RunPolicy
    from slipway._server.peers import AllowList


class RunClient:
    """Owner of an output socket (:class:`OutputOwner`) on behalf of one run.

    Args:
        policy: owner of the run, form of the stream, and if the run goes on without a client.
        allowed: users that may connect.
        reconnect: seconds for a client that has left to come back.
        target: the run, which carries out commands.
        on_abandoned: called if the client has not come back.
        changes: notified if a client has left.
    """

    def __init__(
        self,
        policy: RunPolicy,
        allowed: AllowList,
        reconnect: float,
        target: CommandTarget,
        on_abandoned: Callable[[], None],
        changes: ChangeNotifier,
    ) -> None:
        self._policy = policy
        self._allowed = allowed
        self._reconnect = reconnect
        self._target = target
        self._on_abandoned = on_abandoned
        self._changes = changes
        self._loop = asyncio.get_running_loop()
        self._expected = not policy.detached
        self._departure: asyncio.TimerHandle | None = None
        # A client has read the stream to its end.
        self.delivered = False

    @property
    def awaits_return(self) -> bool:
        """True while a client that has left has time to come back."""
        return self._departure is not None

    def may_read(self, connection: socket.socket) -> bool:
        """Tell if the process that has connected may read the run's output."""
        try:
            peer = read_peer(connection)
        except OSError:
            return False
        return self._allowed.is_allowed(peer) and self._allowed.may_see(peer, self._policy.owner)

    def create_command_reader(self) -> CommandReader | None:
        """Return the reader for a new client; None for raw streams, which have no commands."""
        return CommandReader(self._target) if self._policy.stream == "events" else None

    def on_connected(self) -> None:
        """Stop the time to come back."""
        self._stop_departure()

    def on_disconnected(self, *, delivered: bool) -> None:
        """Start the time to come back, unless the client has read all, or none is expected."""
        self._changes.notify()
        if delivered:
            self.delivered = True
        elif self._expected:
            self._stop_departure()
            self._departure = self._loop.call_later(self._reconnect, self._on_abandoned)

    def expect_none(self) -> None:
        """Stop expecting a client: the run is over."""
        self._expected = False
        self._stop_departure()

    def _stop_departure(self) -> None:
        if self._departure is not None:
            self._departure.cancel()
            self._departure = None
