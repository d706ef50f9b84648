"""Two TCP ends of the gateway on a wire with faults, and programs behind them, in virtual time."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from slipway.machine.gateway.addresses import GATEWAY
from slipway.machine.gateway.ethernet import FrameError
from slipway.machine.gateway.ipv4 import parse_ipv4
from slipway.machine.gateway.memory_budget import MemoryBudget
from slipway.machine.gateway.tcp import TcpEnd
from slipway.machine.gateway.tcp_segment import (
    FIN,
    RST,
    SEQUENCE_MASK,
    SYN,
    Flow,
    Segment,
    build_reset,
    build_tcp,
    parse_tcp,
)
from slipway.machine.gateway.tcp_state import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

FLOW = Flow(40_000, GATEWAY, 80)


def turn_frame(frame: bytes) -> bytes:
    """Return a frame to the guest as one from it: checksums do not depend on the direction."""
    return frame[:26] + frame[30:34] + frame[26:30] + frame[36:38] + frame[34:36] + frame[38:]


def cross_wire(segment: Segment, cut_to: int | None = None) -> Segment | None:
    """Return a segment as its receiver parses it; None if its frame was cut and is dropped."""
    frame = turn_frame(b"".join(build_tcp(FLOW, segment)))
    if cut_to is not None:
        frame = frame[:cut_to]
    try:
        flow, parsed = parse_tcp(parse_ipv4(frame))
    except FrameError:
        return None
    assert flow == FLOW
    return parsed


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of segments that a wire treats badly, and seconds by which it delays any."""

    lost: float = 0.0
    repeated: float = 0.0
    truncated: float = 0.0
    split: float = 0.0
    delay: float = 0.0


class Peer:
    """End of a connection with a program: the bytes to write, and the speed of reading."""

    def __init__(self, data: bytes, read_size: int = 1 << 20, read_pause: float = 0.0) -> None:
        self.data = data
        self.received = bytearray()
        self.sent_bytes = 0
        self.finished = False
        self.read_size = read_size
        self.read_pause = read_pause
        self.read_at = 0.0
        self.budget = MemoryBudget()
        self.end: TcpEnd | None = None
        self.most_held = 0

    @property
    def deadline(self) -> float:
        """The time when the end or the program acts next."""
        assert self.end is not None
        reads = self.read_at if self.end.peek() else inf
        return min(self.end.deadline, reads)

    def run_program(self, now: float) -> None:
        """Write and read as far as both go."""
        end = self.end
        assert end is not None
        while not self.finished and (room := end.send_room):
            part = self.data[self.sent_bytes : self.sent_bytes + min(room, end.mss)]
            if part:
                end.send(part)
                self.sent_bytes += len(part)
            else:
                end.finish()
                self.finished = True
        while now >= self.read_at and (buffers := end.peek()):
            part = b"".join(buffers)[: self.read_size]
            self.received += part
            end.consume(len(part))
            if self.read_pause:
                self.read_at = now + self.read_pause
        self.most_held = max(self.most_held, self.budget.used)

    @property
    def is_done(self) -> bool:
        """True once the connection is over for this side, and all is read."""
        end = self.end
        return end is not None and end.state in (State.CLOSED, State.TIME_WAIT) and not end.peek()


class TcpWire:
    """Wire between a client, which connects, and a server, with a clock that only tests move."""

    def __init__(self, random: Random, faults: Faults, client: Peer, server: Peer) -> None:
        self.random = random
        self.faults = faults
        self.client = client
        self.server = server
        self.now = 0.0
        self.segments = 0
        self._order = count()
        self._flying: list[tuple[float, int, Peer, Segment]] = []
        client.end = TcpEnd.connect(0.0, random.getrandbits(32), client.budget)

    def run(self, most_seconds: float, most_segments: int = 100_000) -> None:
        """Run until both sides are done, or nothing more happens, or the time is over."""
        while not (self.client.is_done and self.server.is_done):
            self._run_peers()
            at = min(
                self._flying[0][0] if self._flying else inf,
                *(peer.deadline for peer in (self.client, self.server) if peer.end is not None),
            )
            if at > most_seconds:
                return
            self.now = max(self.now, at)
            while self._flying and self._flying[0][0] <= self.now:
                _, _, to, segment = heapq.heappop(self._flying)
                self._deliver(to, segment)
            assert self.segments < most_segments, "the ends do not fall silent"

    def _run_peers(self) -> None:
        for peer, other in ((self.client, self.server), (self.server, self.client)):
            end = peer.end
            if end is None:
                continue
            peer.run_program(self.now)
            while segment := end.next_segment(self.now):
                self._send(other, segment)
            assert end.deadline > self.now, "a loop would spin"
            assert peer.most_held <= 3 << 20, "bytes held"

    def _send(self, to: Peer, segment: Segment) -> None:
        random, faults = self.random, self.faults
        self.segments += 1
        for piece in self._split(segment):
            if random.random() < faults.lost:
                continue
            cut = random.randrange(10, 60) if random.random() < faults.truncated else None
            arriving = cross_wire(piece, cut)
            if arriving is None:
                continue
            for _ in range(1 + (random.random() < faults.repeated)):
                at = self.now + random.uniform(0, faults.delay)
                heapq.heappush(self._flying, (at, next(self._order), to, arriving))

    def _split(self, segment: Segment) -> Iterator[Segment]:
        size = len(segment.payload)
        if size < 2 or segment.flags & SYN or self.random.random() >= self.faults.split:
            yield segment
            return
        at = self.random.randrange(1, size)
        first, rest = memoryview(segment.payload)[:at], memoryview(segment.payload)[at:]
        yield segment._replace(payload=first, flags=segment.flags & ~FIN)
        yield segment._replace(payload=rest, sequence=segment.sequence + at & SEQUENCE_MASK)

    def _deliver(self, to: Peer, segment: Segment) -> None:
        if to.end is None:
            if segment.flags & SYN:
                to.end = TcpEnd.hold(segment, self.now, self.random.getrandbits(32), to.budget)
                to.end.accept()
        elif to.end.state is not State.CLOSED:
            to.end.receive(segment, self.now)
        elif (answer := build_reset(segment)) and not segment.flags & RST:
            self._send(self.client if to is self.server else self.server, answer)
