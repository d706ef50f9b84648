"""A guest that answers the gateway's TCP with near misses and damaged frames, for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway.machine.gateway.addresses import GATEWAY, MTU
from slipway.machine.gateway.ethernet import EtherType, FrameError, answer_arp, parse_ether_type
from slipway.machine.gateway.ipv4 import (
    Protocol,
    answer_echo,
    build_prohibited,
    parse_ipv4,
    parse_udp,
)
from slipway.machine.gateway.memory_budget import MemoryBudget
from slipway.machine.gateway.tcp import TcpEnd
from slipway.machine.gateway.tcp_segment import (
    ACK,
    FIN,
    PSH,
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
from support.tcp_wire import turn_frame

if TYPE_CHECKING:
    from random import Random

MOST_ENDS = 8
MOST_ANSWERS = 30_000
FLAGS = (
    *[ACK] * 8,
    *[ACK | PSH] * 8,
    *[ACK | FIN] * 6,
    *(FIN, 0, SYN, SYN | ACK, RST, RST | ACK),
)
NEAR = (*[0] * 20, 1, -1, 2, -2, 88, -88, 65480, -65480, 1 << 20, -(1 << 20), 1 << 31)
SIZES = (0, 0, 0, 0, 1, 1, 2, 88, 536, 4095, 4096, 5000, 32740, 65480)
WINDOWS = (0, 0, 1, 2, 88, 1000, 32768, 65535, 65535)
ARP = bytes.fromhex(
    "ffffffffffff525400534c5008060001080006040001525400534c50c6120002000000000000c6120001"
)


class FrameTarget:
    """Gateway's handling of frames, over ends with host sides that read and write at random."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.budget = MemoryBudget()
        self.ends: dict[Flow, TcpEnd] = {}
        self.dropped = 0
        self.states: set[State] = set()

    def handle(self, frame: bytes, now: float) -> list[bytes]:
        """Return the frames that leave because of one that arrives."""
        try:
            return self._handle(frame, now)
        except FrameError:
            self.dropped += 1
            return []

    def _handle(self, frame: bytes, now: float) -> list[bytes]:
        if parse_ether_type(frame) is EtherType.ARP:
            return [answer for answer in [answer_arp(frame)] if answer]
        packet = parse_ipv4(frame)
        if packet.protocol == Protocol.UDP:
            parse_udp(packet)
            return [build_prohibited(packet, GATEWAY)]
        if packet.protocol == Protocol.ICMP:
            return [answer for answer in [answer_echo(packet)] if answer]
        if packet.protocol != Protocol.TCP:
            return []
        flow, segment = parse_tcp(packet)
        end = self.ends.get(flow)
        if end is None:
            if segment.flags & (SYN | ACK | RST) != SYN or len(self.ends) >= MOST_ENDS:
                reset = build_reset(segment)
                return [b"".join(build_tcp(flow, reset))] if reset else []
            end = TcpEnd.hold(segment, now, self.random.getrandbits(32), self.budget)
            self._add(flow, end)
        else:
            end.receive(segment, now)
        return self._run_host(flow, end, now)

    def connect(self, flow: Flow, now: float) -> list[bytes]:
        """Open a connection into the guest."""
        if flow in self.ends or len(self.ends) >= MOST_ENDS:
            return []
        end = TcpEnd.connect(now, self.random.getrandbits(32), self.budget)
        self._add(flow, end)
        return self._run_host(flow, end, now)

    def pass_time(self, now: float) -> list[bytes]:
        """Return the frames that are due."""
        due = [(flow, end) for flow, end in self.ends.items() if end.deadline <= now]
        return [frame for flow, end in due for frame in self._run_host(flow, end, now)]

    def _add(self, flow: Flow, end: TcpEnd) -> None:
        self.ends[flow] = end
        self.budget.change_connections(1)

    def _run_host(self, flow: Flow, end: TcpEnd, now: float) -> list[bytes]:
        random = self.random
        act = random.random()
        if act < 0.01:
            end.abort()
        elif act < 0.03:
            end.refuse()
        elif act < 0.10:
            end.finish()
        elif act < 0.5:
            end.accept()
        if (room := end.send_room) and random.random() < 0.5:
            end.send(bytes(min(room, random.choice((1, 100, 5000, 65480)))))
        if (buffers := end.peek()) and random.random() < 0.5:
            end.consume(random.randint(1, sum(map(len, buffers))))
        self.states.add(end.state)
        frames = []
        while segment := end.next_segment(now):
            frames.append(b"".join(build_tcp(flow, segment)))
            assert len(frames) < MOST_ANSWERS
        if end.state is State.CLOSED:
            end.abort()
            del self.ends[flow]
            self.budget.change_connections(-1)
        assert end.deadline > now, "a loop would spin"
        return frames

    def check_bounds(self) -> None:
        """Compare the bytes that are counted with those that are there, and with their bound."""
        held = sum(end.held_bytes for end in self.ends.values())
        assert self.budget.used == held
        assert held <= MOST_ENDS * 2 * (1 << 20) + MTU


class HostileGuest:
    """Frames near to valid ones: numbers are the gateway's own, and a little more or less."""

    def __init__(self, random: Random, target: FrameTarget) -> None:
        self.random = random
        self.target = target
        self.now = 0.0
        self.frames = 0
        # By flow: the gateway's next number, and the next that the gateway expects.
        self._known: dict[Flow, tuple[int, int]] = {}
        self._last = ARP

    def run(self, frames: int) -> None:
        """Send frames, and look at the answers."""
        for _ in range(frames):
            self.frames += 1
            self._step()
        self.target.check_bounds()

    def _step(self) -> None:
        random, target = self.random, self.target
        if random.random() < 0.2:
            self.now += random.choice((0.0001, 0.003, 0.3, 1.5, 70.0))
            self._learn(target.pass_time(self.now))
        if random.random() < 0.02:
            self._learn(target.connect(self._choose_flow(), self.now))
        act = random.random()
        if act < 0.6:
            frame = self._last = self._make_segment()
        elif act < 0.95:
            frame = self._damage(self._make_segment() if act < 0.8 else self._last)
        else:
            frame = self._damage(ARP)
        self._learn(target.handle(frame, self.now))
        if self.frames % 100 == 0:
            target.check_bounds()

    def _choose_flow(self) -> Flow:
        return Flow(self.random.randrange(3), GATEWAY, self.random.randrange(4))

    def _make_segment(self) -> bytes:
        random = self.random
        flow = self._choose_flow()
        theirs, ours = self._known.get(flow, (0, 0))
        flags = random.choice(FLAGS) if flow in self._known else SYN
        segment = Segment(
            ours + random.choice(NEAR) & SEQUENCE_MASK,
            theirs + random.choice(NEAR) & SEQUENCE_MASK,
            flags,
            random.choice(WINDOWS),
            b"" if flags & SYN else bytes(random.choice(SIZES)),
            random.choice((None, 0, 1, 536, 65480, 65535)) if flags & SYN else None,
            random.choice((None, 0, 5, 14, 255)) if flags & SYN else None,
        )
        return turn_frame(b"".join(build_tcp(flow, segment, checksums=False)))

    def _damage(self, frame: bytes) -> bytes:
        random = self.random
        damaged = bytearray(frame)
        for _ in range(random.randint(1, 4)):
            at = random.randrange(min(len(damaged), 80))
            damaged[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
        act = random.random()
        if act < 0.2:
            del damaged[random.randrange(len(damaged)) :]
        elif act < 0.3:
            damaged += bytes(random.choice((1, 18, 1000)))
        return bytes(damaged)

    def _learn(self, frames: list[bytes]) -> None:
        for frame in frames:
            if frame[12:14] != b"\x08\x00" or frame[23] != Protocol.TCP:
                continue
            flow, segment = parse_tcp(parse_ipv4(turn_frame(frame)))
            if segment.flags & RST:
                self._known.pop(flow, None)
                continue
            acknowledged = segment.acknowledgment if segment.flags & ACK else 1000
            self._known[flow] = (segment.sequence + segment.length, acknowledged)
