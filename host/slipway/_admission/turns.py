"""Turns: the order in which users, and within each user keys, are served."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from slipway._admission.ticket import Ticket
    from slipway._util.shares import Holdings, Share

_Group = TypeVar("_Group", bound="Hashable")


class Turns:
    """Times of the last turns of users and shares that have runs; a new one begins now.

    A time is the number of an arrival or turn.
    """

    def __init__(self) -> None:
        self._now = 0
        self._last: dict[Hashable, int] = {}

    def enter(self, share: Share) -> int:
        """Begin to remember a user and share; return the number of this arrival.

        A user or share that is known keeps its time.
        """
        self._now += 1
        self._last.setdefault(share, self._now)
        self._last.setdefault(share.user, self._now)
        return self._now

    def note(self, share: Share) -> None:
        """Note a turn of ``share`` and its user."""
        self._now += 1
        self._last[share] = self._last[share.user] = self._now

    def forget(self, group: Hashable) -> None:
        """Forget a user or share without runs."""
        self._last.pop(group, None)

    def sort(self, tickets: Iterable[Ticket], machines: Holdings) -> list[Ticket]:
        """Return tickets in the order of their turns, if no run of ``machines`` ended before.

        Runs that wait for their image stand at the end: all others may pass.
        """
        turns = sorted(tickets, key=lambda t: (t.needs is None, t.number))
        if len(turns) > 1:
            turns = self._rank(turns, lambda t: t.share, machines.of_share)
            turns = self._rank(turns, lambda t: t.share.user, machines.of_user)
        return turns

    def _rank(
        self,
        turns: Iterable[Ticket],
        group_of: Callable[[Ticket], _Group],
        running_of: Callable[[_Group], int],
    ) -> list[Ticket]:
        """Order ``turns`` so that groups take turns; the order within each group stays."""
        places: defaultdict[_Group, int] = defaultdict(int)
        ranked = []
        for ticket in turns:
            group = group_of(ticket)
            rank = running_of(group) + places[group]
            places[group] += 1
            last = self._last[group]
            ranked.append((ticket.needs is None, rank, last, ticket.number, ticket))
        ranked.sort(key=lambda entry: entry[:4])
        return [entry[4] for entry in ranked]
