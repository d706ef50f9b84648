"""Idle sessions, which give way to runs of shares that have fewer machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._util.shares import Holdings

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._admission.ticket import Needs, Ticket
    from slipway._util.shares import Share


class IdleSessions:
    """Idle sessions, those that are leaving for others, and the machines that stay."""

    def __init__(self, machines: int) -> None:
        """``machines`` is the most that all shares may hold."""
        # Sessions with the call that ends each, the one that is idle for longest first.
        self._idle: dict[int, tuple[Ticket, Callable[[], None]]] = {}
        # Sessions that have been ended for others, until they leave.
        self._leaving: dict[int, Ticket] = {}
        # Machines of all runs and sessions but those that are leaving, by share.
        self._staying = Holdings(machines)

    def __bool__(self) -> bool:
        """Tell if a session is idle."""
        return bool(self._idle)

    def start(self, ticket: Ticket) -> None:
        """Count the machine of an admitted run or session."""
        self._staying.add(ticket.share)

    def leave(self, ticket: Ticket) -> None:
        """Count a machine no longer, which has ended."""
        self._idle.pop(ticket.number, None)
        if self._leaving.pop(ticket.number, None) is None:
            self._staying.remove(ticket.share)

    def set_idle(self, ticket: Ticket, give_way: Callable[[], None] | None) -> None:
        """Note that a session is idle, and ends if ``give_way`` is called; None: it is busy.

        A session that is leaving cannot give way again.
        """
        self._idle.pop(ticket.number, None)
        if give_way is not None and ticket.number not in self._leaving:
            self._idle[ticket.number] = ticket, give_way

    def list_givers(self, taker: Share) -> list[Share]:
        """Return the shares with more machines than ``taker`` would have."""
        return self._staying.list_givers(taker)

    def list_leaving(self) -> list[Needs]:
        """Return the needs of the sessions that are leaving, which will be free."""
        return [ticket.needs for ticket in self._leaving.values() if ticket.needs is not None]

    def end_one(self, taker: Share) -> bool:
        """End a session of the share that gives way to ``taker`` first; False without one."""
        for giver in self.list_givers(taker):
            idle = (entry for entry in self._idle.values() if entry[0].share == giver)
            if (entry := next(idle, None)) is not None:
                ticket, give_way = entry
                del self._idle[ticket.number]
                self._leaving[ticket.number] = ticket
                self._staying.remove(ticket.share)
                give_way()
                return True
        return False
