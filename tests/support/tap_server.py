"""TCP ends of the gateway behind a tap, without the gateway's process: Linux is their peer.

Frames of both directions are lost, repeated and swapped as a test asks.
"""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from slipway.machine.gateway.ethernet import EtherType, FrameError, answer_arp, parse_ether_type
from slipway.machine.gateway.ipv4 import Protocol, parse_ipv4
from slipway.machine.gateway.memory_budget import MemoryBudget
from slipway.machine.gateway.tcp import TcpEnd
from slipway.machine.gateway.tcp_segment import (
    ACK,
    RST,
    SYN,
    Flow,
    build_reset,
    build_tcp,
    parse_tcp,
)
from slipway.machine.gateway.tcp_state import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

LONGEST_POLL = 0.05


@dataclass(frozen=True, slots=True)
class FrameFaults:
    """Shares of frames that are lost, repeated, or swapped with the next."""

    lost: float = 0.0
    repeated: float = 0.0
    swapped: float = 0.0


class TapServer:
    """Echo for each connection of the guest, and connections to the guest, on one thread."""

    def __init__(self, tap: int, random: Random, faults: FrameFaults) -> None:
        self._tap = tap
        self._random = random
        self._faults = faults
        self._budget = MemoryBudget()
        self._ends: dict[Flow, TcpEnd] = {}
        self._swapped: dict[str, bytes] = {}
        self._ended = threading.Event()
        self.closed: list[TcpEnd] = []
        self.frames = 0
        self._to_open: list[Flow] = []

    def connect(self, flow: Flow) -> None:
        """Open a connection to the guest, which echoes as well."""
        self._to_open.append(flow)

    def run(self) -> None:
        """Answer frames until :meth:`stop`."""
        while not self._ended.is_set():
            now = time.monotonic()
            while self._to_open:
                number = self._random.getrandbits(32)
                self._ends[self._to_open.pop()] = TcpEnd.connect(now, number, self._budget)
            for flow, end in list(self._ends.items()):
                self._echo(flow, end, now)
            deadline = min((end.deadline for end in self._ends.values()), default=inf)
            wait = min(LONGEST_POLL, max(0, deadline - time.monotonic()))
            if select.select([self._tap], [], [], wait)[0]:
                self._receive()

    def stop(self) -> None:
        """End :meth:`run`."""
        self._ended.set()

    def _receive(self) -> None:
        for _ in range(64):
            try:
                frame = os.read(self._tap, 1 << 16)
            except BlockingIOError:
                return
            for arriving in self._damage("from guest", frame):
                try:
                    self._handle(arriving)
                except FrameError:
                    continue

    def _handle(self, frame: bytes) -> None:
        if parse_ether_type(frame) is EtherType.ARP:
            if answer := answer_arp(frame):
                os.write(self._tap, answer)
            return
        packet = parse_ipv4(frame)
        if packet.protocol != Protocol.TCP:
            return
        flow, segment = parse_tcp(packet)
        now = time.monotonic()
        end = self._ends.get(flow)
        if end is not None:
            end.receive(segment, now)
        elif segment.flags & (SYN | ACK | RST) == SYN:
            number = self._random.getrandbits(32)
            self._ends[flow] = end = TcpEnd.hold(segment, now, number, self._budget)
            end.accept()
        elif reset := build_reset(segment):
            self._send(b"".join(build_tcp(flow, reset)))

    def _echo(self, flow: Flow, end: TcpEnd, now: float) -> None:
        while (room := end.send_room) and (buffers := end.peek()):
            data = bytes(buffers[0][:room])
            end.consume(len(data))
            end.send(data)
        if end.is_at_end:
            end.finish()
        while segment := end.next_segment(now):
            self._send(b"".join(build_tcp(flow, segment)))
        if end.state is State.CLOSED:
            self.closed.append(self._ends.pop(flow))

    def _send(self, frame: bytes) -> None:
        for leaving in self._damage("to guest", frame):
            self.frames += 1
            os.write(self._tap, leaving)

    def _damage(self, direction: str, frame: bytes) -> Iterator[bytes]:
        random, faults = self._random, self._faults
        if random.random() < faults.lost:
            return
        held = self._swapped.pop(direction, None)
        if held is None and random.random() < faults.swapped:
            self._swapped[direction] = frame
            return
        yield frame
        if random.random() < faults.repeated:
            yield frame
        if held is not None:
            yield held


@contextmanager
def serve_tap(tap: int, random: Random, faults: FrameFaults) -> Iterator[TapServer]:
    """Run a server on a thread of its own for the time of the context."""
    server = TapServer(tap, random, faults)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
