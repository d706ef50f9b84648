"""Connections of the guest: which may begin, and the loop's work on those under way."""

from __future__ import annotations

import os
from math import inf

from slipway.machine.gateway.addresses import GATEWAY, GUEST, GUEST_LOOPBACK
from slipway.machine.gateway.agent_splice import AGENT_PORT, AgentSplice
from slipway.machine.gateway.bounds import (
    MAX_CONNECTIONS,
    MAX_LARGE,
    NEW_BURST,
    NEW_RATE,
    SMALL_BUFFER,
    TOO_MANY,
    has_place,
    has_place_for_caller,
)
from slipway.machine.gateway.link import TokenBucket
from slipway.machine.gateway.memory_budget import MemoryBudget
from slipway.machine.gateway.poller import READ
from slipway.machine.gateway.report import LIMIT_REACHED
from slipway.machine.gateway.splice import Splice, mark_for_reset
from slipway.machine.gateway.tcp import TcpEnd
from slipway.machine.gateway.tcp_segment import ACK, RST, SYN, Flow, build_reset, build_tcp
from slipway.machine.gateway.tcp_state import Failure, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from slipway.machine.gateway.destinations import Destinations
    from slipway.machine.gateway.link import Link
    from slipway.machine.gateway.poller import Poller
    from slipway.machine.gateway.published import Listener
    from slipway.machine.gateway.report import Report
    from slipway.machine.gateway.resolver import Resolver
    from slipway.machine.gateway.tcp_segment import Segment

# Destination of a published port in the report.
PUBLISHED = "guest"
# Ports of the gateway's own connections to the guest.
_FIRST_PORT, _LAST_PORT = 32768, 65535


class Connections:
    """Table of splices by flow.

    ``now`` is the loop's time, set before each turn. A segment marks its splice, and :meth:`move`
    works on all that are marked: several segments have one answer.
    """

    def __init__(
        self,
        poller: Poller,
        link: Link,
        resolver: Resolver,
        destinations: Destinations,
        report: Report,
    ) -> None:
        self._poller = poller
        self._link = link
        self._resolver = resolver
        self._destinations = destinations
        self._report = report
        self._budget = MemoryBudget()
        self._splices: dict[Flow, Splice] = {}
        self._flows: dict[Splice, Flow] = {}
        self._marked: dict[Splice, None] = {}
        # Listeners that are not watched, since there is no place for a connection.
        self._paused: list[Listener] = []
        # SYNs that wait for a place, or for the rate, in their order.
        self._deferred: dict[Flow, Segment] = {}
        self._new = TokenBucket(NEW_RATE, NEW_BURST, 0.0)
        self._last_port = _FIRST_PORT
        # At most the earliest deadline of all.
        self._deadline = inf
        self.now = 0.0
        # Of TCP; a device that vouches for its frames needs none.
        self.checksums = True

    def __len__(self) -> int:
        return len(self._splices)

    @property
    def deadline(self) -> float:
        """The time of the next :meth:`expire`, or infinity."""
        return self._deadline

    @property
    def has_work(self) -> bool:
        """True if :meth:`move` would do something now, without a further event."""
        return bool(self._marked) and not self._link.is_blocked

    # Segments

    def handle(self, flow: Flow, segment: Segment) -> None:
        """Handle a segment of the guest."""
        splice = self._splices.get(flow)
        if splice is not None:
            splice.end.receive(segment, self.now)
            self._mark(splice)
        elif segment.flags & (SYN | ACK | RST) == SYN and flow.guest == GUEST:
            self._open(flow, segment)
        else:
            self._deferred.pop(flow, None)
            self._reset(flow, segment)

    def _reset(self, flow: Flow, segment: Segment) -> None:
        reset = build_reset(segment)
        if reset is not None:
            self._link.send(build_tcp(flow, reset, self.checksums))

    def _refuse(self, flow: Flow, segment: Segment, destination: str, reason: str) -> None:
        if self._report.deny(destination, flow.port, reason):
            self._reset(flow, segment)

    # Beginnings

    def _open(self, flow: Flow, segment: Segment) -> None:
        """Begin a connection of the guest, if the policy and the bounds allow it."""
        destination = self._destinations.judge(flow)
        if reason := destination.reason or self._judge_bounds():
            self._refuse(flow, segment, str(destination), reason)
            return
        if not has_place(self._flows, callers=False) or self._new.compute_wait(self.now):
            if len(self._deferred) < MAX_CONNECTIONS:
                # Without its payload, which would keep a frame in memory.
                self._deferred[flow] = segment._replace(payload=b"")
            return
        self._new.take(1)
        end = TcpEnd.hold(segment, self.now, _choose_number(), self._budget)
        splice = self._add(flow, end, (str(destination), flow.port))
        if destination.name is None:
            splice.connect([(destination.address, flow.port)], self.now)
        else:
            self._look_up(destination.name, flow.port, splice)

    def _judge_bounds(self) -> str:
        """Return the reason why no connection may begin, or an empty text."""
        if self._report.is_limit_reached:
            return LIMIT_REACHED
        if len(self._splices) < MAX_CONNECTIONS or self._forget_finished():
            return ""
        return TOO_MANY

    def _forget_finished(self) -> bool:
        """Forget the oldest connection that is finished and only waits; return False without."""
        for splice, flow in self._flows.items():
            if splice.end.state is State.TIME_WAIT and not splice.end.peek():
                self._forget(splice, flow)
                return True
        return False

    def _can_accept(self) -> bool:
        """Return True if a caller of a published port gets an answer now, be it a reset."""
        return self._report.is_limit_reached or (
            has_place_for_caller(self._flows) and not self._judge_bounds()
        )

    def _look_up(self, name: str, port: int, splice: Splice) -> None:
        def answer(addresses: list[str]) -> None:
            if splice not in self._flows or splice.end.state is not State.SYN_HELD:
                return  # the guest did not wait
            chosen = self._destinations.choose(name, port, addresses)
            splice.connect(chosen, self.now, self._destinations.build_inspector(name, port))

        if not self._resolver.start(name.encode("ascii"), answer, self.now):
            self._report.deny(name, port, TOO_MANY)
            splice.connect([], self.now)

    def accept(self, listener: Listener) -> None:
        """Begin a connection to the guest for one to a published port.

        Without a place for it, the caller waits until there is one.
        """
        if not self._can_accept():
            self._poller.change(listener.fileno(), 0)
            self._paused.append(listener)
            return
        connected = listener.accept()
        if connected is None:
            return
        if self._report.is_limit_reached:
            self._report.count_denied(PUBLISHED, listener.guest_port, LIMIT_REACHED)
            mark_for_reset(connected)
            connected.close()
            return
        flow = Flow(listener.guest_port, GATEWAY, self._choose_port())
        end = TcpEnd.connect(self.now, _choose_number(), self._budget)
        splice = self._add(flow, end, (PUBLISHED, listener.guest_port))
        splice.adopt(connected)
        self._report.connections += 1

    def connect_agent(self, stream: _socket.socket) -> None:
        """Join ``stream`` to the agent's port of the guest, as soon as the agent answers."""
        # A port of its own: the guest of a clone still has its connection to the last gateway.
        span = _LAST_PORT - _FIRST_PORT
        self._last_port = _FIRST_PORT + _choose_number() % span
        flow = Flow(AGENT_PORT, GATEWAY, self._choose_port())
        splice = AgentSplice(
            stream, self._poller, self._mark, self._budget, self.now, _choose_number()
        )
        self._enter(flow, splice)

    def _try_loopback(self, splice: Splice, flow: Flow) -> bool:
        """Connect again, to the guest's 127.0.0.1; return False if that was refused already.

        Many servers listen there only.
        """
        if splice.end.failure is not Failure.REFUSED or flow.guest != GUEST:
            return False
        splice.end = TcpEnd.connect(self.now, _choose_number(), self._budget)
        del self._splices[flow]
        flow = flow._replace(guest=GUEST_LOOPBACK)
        self._splices[flow], self._flows[splice] = splice, flow
        self._mark(splice)
        return True

    def _choose_port(self) -> int:
        self._last_port = _FIRST_PORT if self._last_port >= _LAST_PORT else self._last_port + 1
        return self._last_port

    def _add(self, flow: Flow, end: TcpEnd, destination: tuple[str, int]) -> Splice:
        splice = Splice(end, self._poller, self._report, self._mark)
        splice.destination = destination
        splice.buffer_bytes = SMALL_BUFFER if len(self._flows) >= MAX_LARGE else 0
        self._enter(flow, splice)
        return splice

    def _enter(self, flow: Flow, splice: Splice) -> None:
        self._splices[flow] = splice
        self._flows[splice] = flow
        self._budget.change_connections(1)
        self._mark(splice)

    # Progress

    def _mark(self, splice: Splice) -> None:
        self._marked[splice] = None

    def move(self) -> None:
        """Work on the splices that are marked; those that wait for the link stay so."""
        marked, self._marked = self._marked, {}
        for splice in marked:
            if splice in self._flows:
                self._move(splice, self._flows[splice])
        while self._deferred and has_place(self._flows, callers=False):
            if wait := self._new.compute_wait(self.now):
                self._deadline = min(self._deadline, self.now + wait)
                break
            flow = next(iter(self._deferred))
            self._open(flow, self._deferred.pop(flow))
        while self._paused and self._can_accept():
            self._poller.change(self._paused.pop().fileno(), READ)
        if self._report.is_limit_reached:
            for splice in self._flows:
                splice.cut()

    def _move(self, splice: Splice, flow: Flow) -> None:
        end = splice.end
        splice.move(self.now, may_send=not self._link.is_blocked)
        while not self._link.is_blocked:
            segment = end.next_segment(self.now)
            if segment is None:
                break
            self._link.send(build_tcp(flow, segment, self.checksums))
        if self._link.is_blocked:
            self._mark(splice)
        elif (
            end.state is State.CLOSED
            and (end.failure is not None or not end.peek())
            and not splice.will_retry
        ):
            if not self._try_loopback(splice, flow):
                self._forget(splice, flow)
            return
        self._deadline = min(self._deadline, end.deadline, splice.attempt_ends or inf)

    def _forget(self, splice: Splice, flow: Flow) -> None:
        splice.close()
        del self._splices[flow], self._flows[splice]
        self._budget.change_connections(-1)

    def expire(self) -> None:
        """Act on the deadlines that have passed."""
        self._deadline = inf
        for splice in self._flows:
            if splice.attempt_ends and splice.attempt_ends <= self.now:
                splice.try_next_address(self.now)
            elif splice.end.deadline <= self.now:
                self._mark(splice)
            self._deadline = min(self._deadline, splice.end.deadline, splice.attempt_ends or inf)


def _choose_number() -> int:
    return int.from_bytes(os.urandom(4), "big")
