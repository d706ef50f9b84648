"""MB/s of two TCP ends of the gateway in one process: the cost of the code alone, without sockets.

All frames are built and parsed as for a guest. Each round of the table takes the modes in turn:
checksums are needed behind QEMU, our VMM's device needs none; frames that arrive in one reused
buffer are copied once, frames of ``bytes``, as from the gateway's link, are kept as views. Half of
the time is the other end's, which in a guest is Linux. Times are the processor's.

Also the microseconds of one exchange of a byte, and the frames that it takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from os import urandom
from typing import TYPE_CHECKING

from slipway.machine.gateway.addresses import GATEWAY, MAX_FRAME
from slipway.machine.gateway.ipv4 import parse_ipv4
from slipway.machine.gateway.memory_budget import MemoryBudget
from slipway.machine.gateway.tcp import TcpEnd
from slipway.machine.gateway.tcp_segment import Flow, build_tcp, parse_tcp

if TYPE_CHECKING:
    from slipway.machine.gateway.tcp_segment import Segment

FLOW = Flow(40_000, GATEWAY, 80)
MODES = {
    "checksums, buffer": (True, True),
    "checksums, bytes": (True, False),
    "no checksums, buffer": (False, True),
    "no checksums, bytes": (False, False),
}


@dataclass(slots=True)
class Wire:
    """Memory between the ends; ``frames`` counts what has crossed."""

    checksums: bool
    reuses_buffer: bool
    frames: int = 0
    buffer: bytearray = field(default_factory=lambda: bytearray(MAX_FRAME))

    def cross(self, segment: Segment) -> Segment:
        """Return the segment as the other end parses it."""
        self.frames += 1
        parts = build_tcp(FLOW, segment, self.checksums)
        # Both directions have the guest's address as their source here: it is not swapped.
        headers = bytes(parts[0])
        turned = headers[:26] + headers[30:34] + headers[26:30] + headers[34:]
        frame: bytes | memoryview = b"".join((turned, *parts[1:]))
        if self.reuses_buffer:
            size = len(frame)
            self.buffer[:size] = frame
            frame = memoryview(self.buffer)[:size]
        return parse_tcp(parse_ipv4(frame))[1]

    def exchange(self, one: TcpEnd, other: TcpEnd, now: float) -> None:
        """Pass segments until both ends are silent; frames are answered in batches."""
        moved = True
        while moved:
            moved = False
            for sender, receiver in ((one, other), (other, one)):
                while segment := sender.next_segment(now):
                    receiver.receive(self.cross(segment), now)
                    moved = True


def open_pair(wire: Wire) -> tuple[TcpEnd, TcpEnd]:
    """Return both ends of an open connection."""
    client = TcpEnd.connect(0.0, 1, MemoryBudget())
    syn = client.next_segment(0.0)
    assert syn is not None
    server = TcpEnd.hold(wire.cross(syn), 0.0, 2, MemoryBudget())
    server.accept()
    wire.exchange(client, server, 0.0)
    return client, server


def measure_rate(wire: Wire, mebibytes: int) -> float:
    """Return MB/s of random data in one direction."""
    client, server = open_pair(wire)
    chunks = [urandom(client.mss) for _ in range(16)]
    left = mebibytes << 20
    begin = time.process_time()
    while left > 0:
        now = time.perf_counter()
        while client.send_room >= client.mss:
            client.send(chunks[left % 16])
            left -= client.mss
        wire.exchange(client, server, now)
        while buffers := server.peek():
            server.consume(sum(map(len, buffers)))
    return mebibytes * 1.048576 / (time.process_time() - begin)


def measure_echo(wire: Wire, rounds: int) -> tuple[float, float]:
    """Return microseconds and frames of one byte there and back."""
    client, server = open_pair(wire)
    frames = wire.frames
    begin = time.process_time()
    for _ in range(rounds):
        now = time.perf_counter()
        client.send(b"x")
        wire.exchange(client, server, now)
        server.consume(1)
        server.send(b"y")
        wire.exchange(client, server, now)
        client.consume(1)
    seconds = time.process_time() - begin
    return seconds / rounds * 1e6, (wire.frames - frames) / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(arguments.rounds):
        for mode, (checksums, reuses_buffer) in MODES.items():
            rates[mode].append(measure_rate(Wire(checksums, reuses_buffer), arguments.mebibytes))
    for mode, measured in rates.items():
        low, high = min(measured), max(measured)
        print(f"{mode:22} {statistics.median(measured):6.0f} MB/s ({low:.0f} to {high:.0f})")
    echoes = [measure_echo(Wire(True, True), 5000) for _ in range(arguments.rounds)]
    microseconds = statistics.median(echo[0] for echo in echoes)
    print(f"one byte and its echo  {microseconds:6.1f} us, {echoes[0][1]:.2f} frames")


if __name__ == "__main__":
    main()
