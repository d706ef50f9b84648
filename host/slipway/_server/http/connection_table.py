"""Connections of all clients, and which of them give way."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from slipway._util.shares import Holdings

if TYPE_CHECKING:
    from slipway._util.shares import Share


class Activity(enum.IntEnum):
    """Activity of a connection; the lowest gives way first."""

    IDLE = 0
    SENDS_REQUEST = 1
    AWAITS_RESPONSE = 2


class SharedConnection(Protocol):
    """Connection of one user."""

    @property
    def share(self) -> Share:
        """The client's user."""
        ...

    @property
    def activity(self) -> Activity:
        """What the connection does now."""
        ...

    @property
    def active_at(self) -> float:
        """Time of the last data or response, in seconds of the event loop's clock."""
        ...

    def give_way(self) -> None:
        """Close the connection. Must not wait."""
        ...


class ConnectionTable:
    """Table of at most ``bound`` connections, shared by users (:mod:`slipway._util.shares`).

    Attributes:
        holdings: number of connections, by share.
    """

    def __init__(self, bound: int) -> None:
        self.holdings = Holdings(bound)
        self._connections: dict[Share, dict[SharedConnection, None]] = {}

    def admit(self, connection: SharedConnection) -> bool:
        """Count a new connection; False if all are in use and nobody with more has one to spare.

        A connection of the user with most gives way: the one that is idle for longest, else the one
        whose request is under way for longest, else the last one that waits for a response.
        """
        share = connection.share
        if not self.holdings.has_room(share):
            givers = self.holdings.list_givers(share)
            if not givers:
                return False
            leaving = min(self._connections[givers[0]], key=_rank)
            self._forget(leaving)
            self.holdings.take_back(leaving.share)
            leaving.give_way()
        self.holdings.add(share)
        self._connections.setdefault(share, {})[connection] = None
        return True

    def discard(self, connection: SharedConnection) -> None:
        """Count a closed connection no longer. A second call has no effect."""
        if self._forget(connection):
            self.holdings.remove(connection.share)

    def _forget(self, connection: SharedConnection) -> bool:
        of_share = self._connections.get(connection.share, {})
        if connection not in of_share:
            return False
        del of_share[connection]
        if not of_share:
            del self._connections[connection.share]
        return True


def _rank(connection: SharedConnection) -> tuple[int, float]:
    activity = connection.activity
    newest_first = activity is Activity.AWAITS_RESPONSE
    return activity, -connection.active_at if newest_first else connection.active_at
