"""Idle sessions that give way to runs of shares with fewer machines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity, Needs
from slipway._util.shares import Share

if TYPE_CHECKING:
    from slipway._admission.ticket import Ticket

SMALL = Needs(1, 1)
HOARDER, OTHER = Share("hoarder"), Share("other")


def open_sessions(count: int, ended: list[Ticket]) -> tuple[Admission, list[Ticket]]:
    """Return an admission whose machines are all held by idle sessions of the hoarder."""
    room = Admission(Capacity(count, 100, 100, 100))
    tickets = [room.enter(HOARDER, SMALL) for _ in range(count)]
    for ticket in tickets:
        room.set_idle(ticket, partial(ended.append, ticket))
    return room, tickets


def test_session_that_is_idle_for_longest_gives_way_first() -> None:
    ended: list[Ticket] = []
    room, tickets = open_sessions(3, ended)

    waiting = room.enter(OTHER, SMALL)
    gave_way = list(ended)
    room.leave(tickets[0])

    assert gave_way == [tickets[0]]
    assert waiting.is_admitted


def test_leaving_session_gives_way_once() -> None:
    ended: list[Ticket] = []
    room, tickets = open_sessions(3, ended)
    room.enter(OTHER, SMALL)

    room.set_idle(tickets[0], partial(ended.append, tickets[0]))
    room.enter(OTHER, SMALL)
    room.leave(tickets[0])

    assert ended == [tickets[0]]
    assert room.machines.of_share(HOARDER) == 2
    assert room.machines.of_share(OTHER) == 1


def test_equal_shares_do_not_give_way() -> None:
    ended: list[Ticket] = []
    room, _ = open_sessions(1, ended)

    waiting = room.enter(OTHER, SMALL)

    assert not ended
    assert not waiting.is_admitted


def test_busy_session_does_not_give_way() -> None:
    ended: list[Ticket] = []
    room, tickets = open_sessions(2, ended)
    for ticket in tickets:
        room.set_idle(ticket, None)

    waiting = room.enter(OTHER, SMALL)

    assert not ended
    assert not waiting.is_admitted
    assert room.is_wanted(tickets[0])
