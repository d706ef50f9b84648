"""Admission: the decision which run may start now, by counts alone.

A run is admitted while machines, memory and vCPUs suffice. The next run is of the user with the
fewest running runs, and there of the key with the fewest; of equals, of the user or key whose last
turn is longest ago. Runs of one share keep their order. A large run is not passed over: while the
next run waits for room, all others wait as well.

While the next run waits, idle sessions of shares that have more machines give way to it. In a full
queue a run of a share that has less than others takes the place of the newest run of the
share that has most (:mod:`slipway._util.shares`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from slipway._util.errors import Busy, InputError
from slipway._util.public import public
from slipway._util.shares import Holdings, Share
from slipway._util.units import format_mib

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable


_Group = TypeVar("_Group", bound="Hashable")


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bounds on the machines, bytes of memory and vCPUs at once, and on the length of the queue."""

    machines: int
    memory: int
    cpus: int
    queue: int


@dataclass(frozen=True, slots=True)
class Needs:
    """Needs of one run: bytes of memory, overhead of the machine included, and vCPUs."""

    memory: int
    cpus: int


@public
@dataclass(frozen=True, slots=True)
class Load:
    """Part of a capacity that is in use now."""

    capacity: Capacity
    machines: int
    waiting: int
    memory: int
    cpus: int


@dataclass(eq=False, slots=True)
class Ticket:
    """Ticket of one run, from its arrival to its end.

    ``decided`` is set when the run is admitted, or has lost its place in the queue to another user;
    ``refusal`` is then the reason.
    """

    share: Share
    number: int
    needs: Needs | None = None
    position: int | None = None
    on_position: Callable[[int], None] | None = None
    is_admitted: bool = False
    refusal: Busy | None = None
    decided: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """Admission of runs within a capacity. For one thread only."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        # Number of the last arrival or turn.
        self._clock = 0
        self._waiting: dict[int, Ticket] = {}
        # Waiting runs, by share.
        self.queue = Holdings(capacity.queue)
        # Running runs and sessions, by share.
        self.machines = Holdings(capacity.machines)
        self._last_turns = _LastTurns()
        # Idle sessions with the call that ends each, the one that is idle for longest first.
        self._idle: dict[int, tuple[Ticket, Callable[[], None]]] = {}
        # Sessions that have been ended for others, until they leave.
        self._leaving: dict[int, Ticket] = {}
        self._memory = 0
        self._cpus = 0
        self._reserved = 0
        self._reclaiming = False
        # Called with the bytes of reserved memory that a run needs; frees as many as possible.
        self.reclaim: Callable[[int], object] | None = None
        # The same, of memory that is made again in 0.1 s, and goes first.
        self.reclaim_boots: Callable[[int], object] | None = None

    @property
    def load(self) -> Load:
        """Counts of running and waiting runs."""
        machines = self.machines.total
        return Load(self.capacity, machines, len(self._waiting), self._memory, self._cpus)

    @property
    def reserved(self) -> int:
        """Bytes of reserved memory, which runs reclaim when they need them."""
        return self._reserved

    def check(self, needs: Needs) -> None:
        """Check that an idle host could admit a run.

        Raises:
            InputError: the needs exceed the whole capacity.
        """
        if needs.memory > self.capacity.memory:
            needed, most = (format_mib(size, 0) for size in (needs.memory, self.capacity.memory))
            raise InputError(
                f"the run needs {needed} of memory with its machine; the limit of all runs is"
                f" {most}",
                "Use less memory, or a larger memory budget.",
            )
        if needs.cpus > self.capacity.cpus:
            raise InputError(
                f"the run needs {needs.cpus} CPUs; the limit of all runs is {self.capacity.cpus}",
                "Use fewer CPUs, or a higher limit.",
            )

    def enter(self, share: Share, needs: Needs | None) -> Ticket:
        """Admit a run at once if it fits and no other run waits, else queue the run.

        Without ``needs`` the run waits in any case, until :meth:`declare` sets them.

        Raises:
            Busy: the queue is full, and no other share has more runs in it.
        """
        # Runs that wait for their image let all others pass.
        is_empty = all(ticket.needs is None for ticket in self._waiting.values())
        at_once = needs is not None and is_empty and self._fits(needs)
        # Even with a queue of length 0, one run with unknown needs may wait.
        bound = max(self.capacity.queue, needs is None)
        if not at_once and len(self._waiting) >= bound and not self._take_place(share):
            raise Busy(
                f"the queue is full (waiting runs: {len(self._waiting)})",
                "Try again later, or use a longer queue.",
            )
        self._clock += 1
        ticket = Ticket(share, self._clock, needs)
        self._last_turns.enter(share, self._clock)
        self._waiting[ticket.number] = ticket
        self.queue.add(share)
        self._admit()
        return ticket

    def _take_place(self, share: Share) -> bool:
        """Refuse the newest waiting run of the share that has most; False if none has more."""
        for giver in self.queue.list_givers(share):
            waiting = reversed(self._waiting.values())
            ticket = next(ticket for ticket in waiting if ticket.share == giver)
            del self._waiting[ticket.number]
            self.queue.take_back(ticket.share)
            ticket.refusal = Busy(
                "the queue is full, and another client, which has fewer runs in it, got the place"
                " of this run; nothing was started",
                "Try again later, or have fewer runs wait at once.",
            )
            ticket.position = None
            ticket.decided.set()
            self._forget_turns(ticket.share)
            return True
        return False

    def _stop_waiting(self, ticket: Ticket) -> None:
        del self._waiting[ticket.number]
        self.queue.remove(ticket.share)

    def _forget_turns(self, share: Share) -> None:
        """Forget the last turns of a user and key without a run: clients choose these names."""
        if not self.queue.of_share(share) + self.machines.of_share(share):
            self._last_turns.forget(share)
        if not self.queue.of_user(share.user) + self.machines.of_user(share.user):
            self._last_turns.forget(share.user)

    def declare(self, ticket: Ticket, needs: Needs) -> None:
        """Set the needs of a run that has entered without them, and has not been refused."""
        ticket.needs = needs
        self._admit()

    def leave(self, ticket: Ticket) -> None:
        """Release the place of a run. Idempotent."""
        if ticket.number in self._waiting:
            self._stop_waiting(ticket)
        elif ticket.is_admitted:
            assert ticket.needs is not None
            self._memory -= ticket.needs.memory
            self._cpus -= ticket.needs.cpus
            self.machines.remove(ticket.share)
            ticket.is_admitted = False
            self._idle.pop(ticket.number, None)
            self._leaving.pop(ticket.number, None)
        ticket.position = None
        self._forget_turns(ticket.share)
        self._admit()

    def set_idle(self, ticket: Ticket, give_way: Callable[[], None] | None) -> None:
        """Note that a session is idle, and ends if ``give_way`` is called; None: it is busy.

        ``give_way`` must not wait; the session leaves later.
        """
        self._idle.pop(ticket.number, None)
        if give_way is not None and ticket.is_admitted:
            self._idle[ticket.number] = ticket, give_way
            self._admit()

    def is_wanted(self, ticket: Ticket) -> bool:
        """Tell if a session that is between two runs has to give way to the next waiting run."""
        turns = self.list_turns()
        if not turns or turns[0].needs is None or self._fits(turns[0].needs):
            return False
        return ticket.share in self._list_givers(turns[0].share)

    def _take_machines(self, taker: Ticket) -> None:
        """End idle sessions until ``taker`` fits when they have left, or nobody has more."""
        assert taker.needs is not None
        while not self._will_fit(taker.needs):
            for giver in self._list_givers(taker.share):
                idle = (entry for entry in self._idle.values() if entry[0].share == giver)
                if (entry := next(idle, None)) is not None:
                    break
            else:
                return
            ticket, give_way = entry
            del self._idle[ticket.number]
            self._leaving[ticket.number] = ticket
            self.machines.given_way += 1
            give_way()

    def _will_fit(self, needs: Needs) -> bool:
        """Tell if a run fits as soon as the sessions that have to leave have left."""
        leaving = [ticket.needs for ticket in self._leaving.values() if ticket.needs is not None]
        capacity = self.capacity
        return (
            self.machines.total - len(leaving) < capacity.machines
            and self._cpus + needs.cpus - sum(each.cpus for each in leaving) <= capacity.cpus
            and self._memory + needs.memory - sum(each.memory for each in leaving)
            <= capacity.memory
        )

    def _list_givers(self, taker: Share) -> list[Share]:
        """Return the shares with more machines than ``taker`` would have.

        Sessions that have to leave are not counted.
        """
        staying = Holdings(self.capacity.machines)
        for share, held in self.machines.list_shares():
            leaving = sum(ticket.share == share for ticket in self._leaving.values())
            staying.add(share, held - leaving)
        return staying.list_givers(taker)

    def charge(self, memory: int) -> None:
        """Count ``memory`` more bytes of a run that is under way, or fewer if negative.

        The capacity may be exceeded thereby; other runs then wait for as long.
        """
        self._memory += memory
        if memory < 0:
            self._admit()

    def reserve(self, memory: int) -> bool:
        """Reserve ``memory`` bytes for an idle clone or template; return False if they do not fit.

        The next run must fit beside the reservation, which would otherwise be reclaimed at once.
        """
        turns = self.list_turns()
        needs = turns[0].needs if turns else None
        wanted = memory + (needs.memory if needs is not None else 0)
        if self._memory + self._reserved + wanted > self.capacity.memory:
            return False
        self._reserved += memory
        return True

    def free(self, memory: int) -> None:
        """Release ``memory`` reserved bytes."""
        self._reserved -= memory
        self.settle()

    def settle(self) -> None:
        """Admit runs again, after reserved memory has become reclaimable."""
        if not self._reclaiming:
            self._admit()

    def list_turns(self) -> list[Ticket]:
        """Return the waiting runs in the order of their turns, if no running run ended before."""
        # Runs that wait for their image stand at the end: all others may pass.
        turns = sorted(self._waiting.values(), key=lambda t: (t.needs is None, t.number))
        if len(turns) > 1:
            turns = self._rank(turns, lambda t: t.share, self.machines.of_share)
            turns = self._rank(turns, lambda t: t.share.user, self.machines.of_user)
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
            last = self._last_turns.find(group)
            ranked.append((ticket.needs is None, rank, last, ticket.number, ticket))
        ranked.sort(key=lambda entry: entry[:4])
        return [entry[4] for entry in ranked]

    def _fits(self, needs: Needs) -> bool:
        if (
            self.machines.total >= self.capacity.machines
            or self._cpus + needs.cpus > self.capacity.cpus
        ):
            return False
        room = self.capacity.memory - self._memory - needs.memory
        if 0 <= room < self._reserved:
            self._reclaiming = True
            try:
                for reclaim in (self.reclaim_boots, self.reclaim):
                    if reclaim is not None and self._reserved > room:
                        reclaim(self._reserved - room)
            finally:
                self._reclaiming = False
        return room >= self._reserved

    def _admit(self) -> None:
        """Admit runs in their turns while they fit, and report new positions to the others."""
        # Anew after each start: it was a turn of its user and key, and others may be next.
        while (turns := self.list_turns()) and (needs := turns[0].needs) is not None:
            if not self._fits(needs):
                break
            self._start(turns[0])
        if turns and self._idle and turns[0].needs is not None:
            self._take_machines(turns[0])
        for position, ticket in enumerate(turns):
            if ticket.position != position:
                ticket.position = position
                if ticket.on_position is not None:
                    ticket.on_position(position)

    def _start(self, ticket: Ticket) -> None:
        assert ticket.needs is not None
        self._stop_waiting(ticket)
        self._memory += ticket.needs.memory
        self._cpus += ticket.needs.cpus
        self.machines.add(ticket.share)
        self._clock += 1
        self._last_turns.note(ticket.share, self._clock)
        ticket.position = None
        ticket.is_admitted = True
        ticket.decided.set()


class _LastTurns:
    """Times of the last turns of users and shares that have runs; a new one begins now."""

    def __init__(self) -> None:
        self._times: dict[Hashable, int] = {}

    def find(self, group: Hashable) -> int:
        """Return the time of the last turn of a user or share, or of its arrival."""
        return self._times[group]

    def enter(self, share: Share, now: int) -> None:
        """Begin to remember a user and share; a share that is known keeps its time."""
        self._times.setdefault(share, now)
        self._times.setdefault(share.user, now)

    def note(self, share: Share, now: int) -> None:
        """Note a turn."""
        self._times[share] = self._times[share.user] = now

    def forget(self, group: Hashable) -> None:
        """Forget a user or share without runs."""
        self._times.pop(group, None)
