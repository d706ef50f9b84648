"""Admission: the decision which run may start now, by counts alone.

A run is admitted while machines, memory and vCPUs suffice. The next run is of the key with the
fewest running runs, then the oldest; runs of one key keep their order. A large run is not passed
over: while the next run waits for room, all others wait as well.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipway._util.errors import Busy, InputError
from slipway._util.public import public
from slipway._util.units import format_mib

if TYPE_CHECKING:
    from collections.abc import Callable


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
    """Ticket of one run, from its arrival to its end."""

    key: str
    number: int
    needs: Needs | None = None
    position: int | None = None
    on_position: Callable[[int], None] | None = None
    admitted: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """Admission of runs within a capacity. For one thread only."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._arrivals = 0
        self._waiting: dict[int, Ticket] = {}
        self._running: Counter[str] = Counter()
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
        machines = self._running.total()
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

    def enter(self, key: str, needs: Needs | None) -> Ticket:
        """Admit a run at once if it fits and no other run waits, else queue the run.

        Without ``needs`` the run waits in any case, until :meth:`declare` sets them.

        Raises:
            Busy: the queue is full.
        """
        # Runs that wait for their image let all others pass.
        is_empty = all(ticket.needs is None for ticket in self._waiting.values())
        at_once = needs is not None and is_empty and self._fits(needs)
        # Even with a queue of length 0, one run with unknown needs may wait.
        bound = max(self.capacity.queue, needs is None)
        if not at_once and len(self._waiting) >= bound:
            raise Busy(
                f"the queue is full (waiting runs: {len(self._waiting)})",
                "Try again later, or use a longer queue.",
            )
        self._arrivals += 1
        ticket = Ticket(key, self._arrivals, needs)
        self._waiting[ticket.number] = ticket
        self._admit()
        return ticket

    def declare(self, ticket: Ticket, needs: Needs) -> None:
        """Set the needs of a run that has entered without them."""
        ticket.needs = needs
        self._admit()

    def leave(self, ticket: Ticket) -> None:
        """Release the place of a run. Idempotent."""
        if self._waiting.pop(ticket.number, None) is None and ticket.admitted.is_set():
            assert ticket.needs is not None
            self._memory -= ticket.needs.memory
            self._cpus -= ticket.needs.cpus
            self._running[ticket.key] -= 1
            self._running += Counter()  # keys without a run are removed
            ticket.admitted.clear()
        ticket.position = None
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
        by_key: dict[str, list[Ticket]] = {}
        # Runs that wait for their image stand at the end: all others may pass.
        for ticket in sorted(self._waiting.values(), key=lambda t: (t.needs is None, t.number)):
            by_key.setdefault(ticket.key, []).append(ticket)
        ranked = [
            (ticket.needs is None, self._running[key] + place, ticket.number, ticket)
            for key, tickets in by_key.items()
            for place, ticket in enumerate(tickets)
        ]
        ranked.sort(key=lambda entry: entry[:3])
        return [entry[3] for entry in ranked]

    def _fits(self, needs: Needs) -> bool:
        if (
            self._running.total() >= self.capacity.machines
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
        turns = self.list_turns()
        while turns and turns[0].needs is not None and self._fits(turns[0].needs):
            ticket = turns.pop(0)
            del self._waiting[ticket.number]
            self._memory += ticket.needs.memory  # type: ignore[union-attr]
            self._cpus += ticket.needs.cpus  # type: ignore[union-attr]
            self._running[ticket.key] += 1
            ticket.position = None
            ticket.admitted.set()
        for position, ticket in enumerate(turns):
            if ticket.position != position:
                ticket.position = position
                if ticket.on_position is not None:
                    ticket.on_position(position)
