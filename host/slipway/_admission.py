"""Who may run now, and who waits: counts, nothing else.

A run is admitted while machines, memory and processors suffice. Among the clients that wait, told
apart by a key, it is the turn of the one that has the fewest runs going, then of the one that came
first; each client's own runs keep their order. Nobody is passed over for needing much: the one
whose turn it is waits for room, and all others with it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipway._model.errors import Busy, InputError
from slipway._model.options import MIB
from slipway._util.public import public

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much may run at once: machines, bytes of memory, vCPUs; and how many runs may wait."""

    vms: int
    memory: int
    cpus: int
    queue: int


@dataclass(frozen=True, slots=True)
class Needs:
    """What one run takes: bytes of memory, the machine's own included, and vCPUs."""

    memory: int
    cpus: int


@public
@dataclass(frozen=True, slots=True)
class Load:
    """How much of a capacity is taken now."""

    capacity: Capacity
    vms: int
    waiting: int
    memory: int
    cpus: int


@dataclass(eq=False, slots=True)
class Ticket:
    """One run's place, from its arrival to its end."""

    key: str
    number: int
    needs: Needs | None = None
    position: int | None = None
    on_position: Callable[[int], None] | None = None
    admitted: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """Admits runs within a capacity. Not for several threads."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._arrivals = 0
        self._waiting: dict[int, Ticket] = {}
        self._running: Counter[str] = Counter()
        self._memory = 0
        self._cpus = 0
        self._reserved = 0
        self._reclaiming = False
        self.reclaim: Callable[[int], object] | None = None
        """Told how many bytes a run lacks of the memory that is reserved; frees what it can."""

    @property
    def load(self) -> Load:
        """What runs and waits now."""
        vms = self._running.total()
        return Load(self.capacity, vms, len(self._waiting), self._memory, self._cpus)

    @property
    def reserved(self) -> int:
        """Bytes of memory that are reserved, and taken back from whoever has them for a run."""
        return self._reserved

    def check(self, needs: Needs) -> None:
        """Check that a run could be admitted at all.

        Raises:
            InputError: it never could.
        """
        if needs.memory > self.capacity.memory:
            raise InputError(
                f"the run needs {needs.memory // MIB} MiB of memory, its machine's own included, "
                f"and all runs together may have {self.capacity.memory // MIB}",
                "Ask for less memory, or raise the memory budget.",
            )
        if needs.cpus > self.capacity.cpus:
            raise InputError(
                f"the run asks for {needs.cpus} CPUs, and all runs together may have "
                f"{self.capacity.cpus}",
                "Ask for fewer CPUs.",
            )

    def enter(self, key: str, needs: Needs | None) -> Ticket:
        """Take a place: admitted at once where there is room and nobody waits, else in the queue.

        With no ``needs`` it waits in any case, until :meth:`declare` tells them.

        Raises:
            Busy: the queue is full.
        """
        # Those whose images are still being made let everybody pass.
        nobody = all(ticket.needs is None for ticket in self._waiting.values())
        at_once = needs is not None and nobody and self._fits(needs)
        # Where there is no room to wait at all, one that does not know its needs yet may stand in
        # the doorway.
        bound = max(self.capacity.queue, needs is None)
        if not at_once and len(self._waiting) >= bound:
            raise Busy(
                f"{len(self._waiting)} runs wait already, and no more may",
                "Try again later; a larger queue holds more.",
            )
        self._arrivals += 1
        ticket = Ticket(key, self._arrivals, needs)
        self._waiting[ticket.number] = ticket
        self._admit()
        return ticket

    def declare(self, ticket: Ticket, needs: Needs) -> None:
        """Say what a run needs that has entered without."""
        ticket.needs = needs
        self._admit()

    def leave(self, ticket: Ticket) -> None:
        """Give the place back; may be called again."""
        if self._waiting.pop(ticket.number, None) is None and ticket.admitted.is_set():
            assert ticket.needs is not None
            self._memory -= ticket.needs.memory
            self._cpus -= ticket.needs.cpus
            self._running[ticket.key] -= 1
            self._running += Counter()  # keys of clients that have nothing here are forgotten
            ticket.admitted.clear()
        ticket.position = None
        self._admit()

    def reserve(self, memory: int) -> bool:
        """Take ``memory`` bytes for what is no run and makes way for one, if there is room.

        Whoever's turn it is has to fit beside it: else it would be taken back at once.
        """
        turns = self._turns()
        needs = turns[0].needs if turns else None
        wanted = memory + (needs.memory if needs is not None else 0)
        if self._memory + self._reserved + wanted > self.capacity.memory:
            return False
        self._reserved += memory
        return True

    def free(self, memory: int) -> None:
        """Give back what was reserved."""
        self._reserved -= memory
        self.settle()

    def settle(self) -> None:
        """What is reserved can make way now, and could not before: admit whom that lets in."""
        if not self._reclaiming:
            self._admit()

    def _fits(self, needs: Needs) -> bool:
        if (
            self._running.total() >= self.capacity.vms
            or self._cpus + needs.cpus > self.capacity.cpus
        ):
            return False
        room = self.capacity.memory - self._memory - needs.memory
        if 0 <= room < self._reserved and self.reclaim is not None:
            self._reclaiming = True
            try:
                self.reclaim(self._reserved - room)
            finally:
                self._reclaiming = False
        return room >= self._reserved

    def _admit(self) -> None:
        """Admit all whose turn it is, and tell the others their new places."""
        turns = self._turns()
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

    def _turns(self) -> list[Ticket]:
        """Who waits, in the order of their turns if none of those that run ended before."""
        by_key: dict[str, list[Ticket]] = {}
        # One whose image is still being made stands at the end: all can go before it.
        for ticket in sorted(self._waiting.values(), key=lambda t: (t.needs is None, t.number)):
            by_key.setdefault(ticket.key, []).append(ticket)
        ranked = [
            (ticket.needs is None, self._running[key] + place, ticket.number, ticket)
            for key, tickets in by_key.items()
            for place, ticket in enumerate(tickets)
        ]
        ranked.sort(key=lambda entry: entry[:3])
        return [entry[3] for entry in ranked]
