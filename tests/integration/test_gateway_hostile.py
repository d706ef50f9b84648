"""A gateway's process and a hostile guest: it stays, within its bounds.

``SLIPWAY_FUZZ_FRAMES`` is the number of frames.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway.machine.gateway.addresses import GATEWAY
from slipway.machine.gateway.bounds import MAX_CONNECTIONS
from slipway.machine.gateway.ipv4 import Protocol, parse_ipv4
from slipway.machine.gateway.tcp_segment import (
    ACK,
    SEQUENCE_MASK,
    SYN,
    Flow,
    Segment,
    build_tcp,
    parse_tcp,
)
from slipway.machine.gateway_handle import GatewayHandle, GatewaySettings, create_link
from support.gateway_rig import GatewayRig, echo, open_rig
from support.hostile_guest import ARP, FrameTarget, HostileGuest
from support.namespaces import explain_missing
from support.tcp_wire import turn_frame
from support.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.debian("ip")

FRAMES = int(os.environ.get("SLIPWAY_FUZZ_FRAMES", "20000"))
PORTS = (1, 2, 3)
SETTINGS = GatewaySettings(rules="\n".join(f"host:{port}" for port in PORTS))
# Standard streams, control channel, link, epoll, eventfd, netlink.
OWN_DESCRIPTORS = 8
# KiB: what it has at rest, and the bound on what it holds of its guest.
MOST_MEMORY = (24 + 32) << 10


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[GatewayRig]:
    if missing := explain_missing():
        pytest.skip(missing)
    async with open_rig(tmp_path) as rig:
        yield rig


class LinkTarget(FrameTarget):
    """A gateway's process at the other end of a link."""

    def __init__(self, source: random.Random, link: socket.socket, process: int) -> None:
        super().__init__(source)
        link.setblocking(False)
        self._link = link
        self._process = process
        self.answers = 0

    def handle(self, frame: bytes, now: float) -> list[bytes]:
        """Send a frame; as a machine does, take the gateway's meanwhile."""
        frames = []
        while True:
            frames += self.pass_time(now)
            try:
                self._link.send(frame or b"\0")  # an empty packet would be an end of file
            except BlockingIOError:
                ready = select.select([self._link], [self._link], [], LIMIT)
                assert ready[0] or ready[1], "the gateway neither reads nor writes"
            else:
                return frames + self.pass_time(now)

    def connect(self, flow: Flow, now: float) -> list[bytes]:
        return []

    def pass_time(self, now: float) -> list[bytes]:
        """Return the answers that are there, whatever they answer."""
        frames = []
        try:
            while frame := self._link.recv(65_536):
                frames.append(frame)
        except BlockingIOError:
            pass
        self.answers += len(frames)
        return frames

    def check_bounds(self) -> None:
        lines = Path(f"/proc/{self._process}/status").read_text().splitlines()
        (memory,) = [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
        descriptors = sum(1 for _ in Path(f"/proc/{self._process}/fd").iterdir())
        assert memory < MOST_MEMORY
        assert descriptors <= OWN_DESCRIPTORS + MAX_CONNECTIONS


async def test_near_misses_and_damaged_frames_leave_a_gateway_within_its_bounds(
    rig: GatewayRig,
) -> None:
    for port in PORTS:
        await rig.serve("127.0.0.1", port, echo)
    ours, machine = create_link()
    seed = random.getrandbits(32) if "SLIPWAY_FUZZ_FRAMES" in os.environ else 15
    print(f"seed {seed}")
    with ours, machine:
        with rig.host.enter():
            handle = GatewayHandle.start(SETTINGS, ours.fileno())
        async with handle:
            await handle.wait_ready()
            target = LinkTarget(random.Random(seed), machine, handle.pid)
            guest = HostileGuest(random.Random(seed), target)

            await asyncio.to_thread(guest.run, FRAMES)
            report = await handle.fetch_report()
            words = await asyncio.to_thread(target.handle, ARP, 0.0)
            await wait_until(
                lambda: any(frame[12:14] == b"\x08\x06" for frame in words + target.pass_time(0)),
                "the gateway answers as before",
            )

            assert not handle.has_failed

    assert report.connections > 0
    assert target.answers > FRAMES / 20


async def test_guest_that_opens_ten_thousand_connections_stays_within_the_bounds(
    rig: GatewayRig,
) -> None:
    await rig.serve("127.0.0.1", PORTS[0], echo)
    ours, machine = create_link()
    with ours, machine:
        with rig.host.enter():
            handle = GatewayHandle.start(SETTINGS, ours.fileno())
        async with handle:
            await handle.wait_ready()
            target = LinkTarget(random.Random(0), machine, handle.pid)

            await asyncio.to_thread(open_connections, target, 10_000)
            report = await handle.fetch_report()
            target.check_bounds()
            words = await asyncio.to_thread(target.handle, ARP, 0.0)
            await wait_until(
                lambda: any(frame[12:14] == b"\x08\x06" for frame in words + target.pass_time(0)),
                "the gateway answers as before",
            )

            assert not handle.has_failed

    assert 0 < report.connections <= MAX_CONNECTIONS


def open_connections(target: LinkTarget, connections: int) -> None:
    """Begin connections with frames that are as large as can be, and acknowledge each answer."""
    for number in range(connections):
        flow = Flow(1024 + number, GATEWAY, PORTS[0])
        syn = Segment(0, 0, SYN, 0, bytes(65_000), 65_480, 14)
        for frame in target.handle(
            turn_frame(b"".join(build_tcp(flow, syn, checksums=False))), 0.0
        ):
            if frame[23] != Protocol.TCP:
                continue
            opened, answer = parse_tcp(parse_ipv4(turn_frame(frame)))
            if answer.flags & SYN:
                ack = Segment(1, answer.sequence + 1 & SEQUENCE_MASK, ACK, 0)
                target.handle(turn_frame(b"".join(build_tcp(opened, ack, checksums=False))), 0.0)
