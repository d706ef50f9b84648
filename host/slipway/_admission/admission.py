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

from typing import TYPE_CHECKING

from slipway._admission.idle_sessions import IdleSessions
from slipway._admission.ticket import Capacity, Load, Needs, Ticket
from slipway._admission.turns import Turns
from slipway._util.errors import Busy, InputError
from slipway._util.shares import Holdings, Share
from slipway._util.units import format_mib

if TYPE_CHECKING:
    from collections.abc import Callable


class Admission:
    """Admission of runs within a capacity. For one thread only."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._waiting: dict[int, Ticket] = {}
        # Waiting runs, by share.
        self.queue = Holdings(capacity.queue)
        # Running runs and sessions, by share.
        self.machines = Holdings(capacity.machines)
        self._turns = Turns()
        self._sessions = IdleSessions(capacity.machines)
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
        ticket = Ticket(share, self._turns.enter(share), needs)
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
            self._turns.forget(share)
        if not self.queue.of_user(share.user) + self.machines.of_user(share.user):
            self._turns.forget(share.user)

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
            self._sessions.leave(ticket)
        ticket.position = None
        self._forget_turns(ticket.share)
        self._admit()

    def set_idle(self, ticket: Ticket, give_way: Callable[[], None] | None) -> None:
        """Note that a session is idle, and ends if ``give_way`` is called; None: it is busy.

        ``give_way`` must not wait; the session leaves later.
        """
        if ticket.is_admitted:
            self._sessions.set_idle(ticket, give_way)
            if give_way is not None:
                self._admit()

    def is_wanted(self, ticket: Ticket) -> bool:
        """Tell if a session that is between two runs has to give way to the next waiting run."""
        turns = self.list_turns()
        if not turns or turns[0].needs is None or self._fits(turns[0].needs):
            return False
        return ticket.share in self._sessions.list_givers(turns[0].share)

    def _take_machines(self, taker: Ticket) -> None:
        """End idle sessions until ``taker`` fits when they have left, or nobody has more."""
        assert taker.needs is not None
        while not self._will_fit(taker.needs) and self._sessions.end_one(taker.share):
            self.machines.given_way += 1

    def _will_fit(self, needs: Needs) -> bool:
        """Tell if a run fits as soon as the sessions that have to leave have left."""
        leaving = self._sessions.list_leaving()
        capacity = self.capacity
        return (
            self.machines.total - len(leaving) < capacity.machines
            and self._cpus + needs.cpus - sum(each.cpus for each in leaving) <= capacity.cpus
            and self._memory + needs.memory - sum(each.memory for each in leaving)
            <= capacity.memory
        )

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
        return self._turns.sort(self._waiting.values(), self.machines)

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
        if turns and self._sessions and turns[0].needs is not None:
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
        self._sessions.start(ticket)
        self._turns.note(ticket.share)
        ticket.position = None
        ticket.is_admitted = True
        ticket.decided.set()
