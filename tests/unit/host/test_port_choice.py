"""Choice of the agent's port among the devices of a machine."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from slipway._run.port_choice import wait_for_port
from slipway.machine.child import ChildMachine
from slipway.machine.console import Console
from slipway.machine.model import PortKind
from slipway.machine.process import ChildProcess
from slipway_protocol import messages as m
from slipway_protocol.connection import Connection
from slipway_protocol.schema import VERSION
from support.fake_machine import FakeHypervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 30
NOISE = b"\xc0a line of the kernel\xc0" * 1000


class Guest:
    """Guest's ends of both lines of a machine whose process does nothing."""

    def __init__(self, machine: ChildMachine, ends: dict[PortKind, socket.socket]) -> None:
        self.machine = machine
        self.ends = ends

    def say(self, kind: PortKind, *messages: m.AgentMessage, noise: bytes = b"") -> None:
        connection = Connection.agent()
        frames = b"".join(map(connection.send, messages))
        self.ends[kind].sendall(noise + frames)


@pytest.fixture
async def guest() -> AsyncIterator[Guest]:
    pairs = {kind: socket.socketpair() for kind in PortKind.AUTO.devices}
    console, guest_console = socket.socketpair()
    process = ChildProcess.start(["sleep", "600"])
    machine = ChildMachine(process, Console(), FakeHypervisor(), PortKind.AUTO)
    await machine.connect({kind: ours for kind, (ours, _) in pairs.items()}, console)
    try:
        yield Guest(machine, {kind: theirs for kind, (_, theirs) in pairs.items()})
    finally:
        await machine.stop()
        for end in (guest_console, *(theirs for _, theirs in pairs.values())):
            end.close()


@pytest.mark.parametrize("kind", PortKind.AUTO.devices)
async def test_first_message_decides_and_is_still_to_be_read(guest: Guest, kind: PortKind) -> None:
    (other,) = {*PortKind.AUTO.devices} - {kind}
    guest.say(other, noise=NOISE)
    guest.say(kind, m.Log(m.Level.WARNING, "early"), m.Awake(VERSION), noise=NOISE)

    async with asyncio.timeout(PATIENCE):
        channel = await wait_for_port(guest.machine)
        messages = [await channel.receive() for _ in range(2)]

    assert guest.machine.port is kind
    assert messages == [m.Log(m.Level.WARNING, "early"), m.Awake(VERSION)]
    # The line that was not taken is closed: a guest that goes on to speak there reaches nobody.
    with pytest.raises(OSError, match="pipe"):
        guest.say(other, m.Awake(VERSION))


async def test_guest_that_speaks_on_both_gets_the_better(guest: Guest) -> None:
    for kind in (PortKind.SERIAL, PortKind.VIRTIO):
        guest.say(kind, m.Awake(VERSION))

    async with asyncio.timeout(PATIENCE):
        await wait_for_port(guest.machine)

    assert guest.machine.port is PortKind.VIRTIO


async def test_messages_that_break_the_protocol_decide_nothing(guest: Guest) -> None:
    hello = Connection.host().send(m.Hello(VERSION, (), 0, b""))
    guest.say(PortKind.VIRTIO, noise=hello)  # no message of an agent
    waiting = asyncio.create_task(wait_for_port(guest.machine))
    guest.say(PortKind.SERIAL, m.Awake(VERSION))

    async with asyncio.timeout(PATIENCE):
        await waiting

    assert guest.machine.port is PortKind.SERIAL


async def test_line_that_ends_leaves_the_other(guest: Guest) -> None:
    waiting = asyncio.create_task(wait_for_port(guest.machine))
    guest.ends[PortKind.VIRTIO].close()
    guest.say(PortKind.SERIAL, m.Awake(VERSION))

    async with asyncio.timeout(PATIENCE):
        await waiting

    assert guest.machine.port is PortKind.SERIAL


async def test_end_of_both_lines_is_the_end_of_the_channel(guest: Guest) -> None:
    for end in guest.ends.values():
        end.close()

    async with asyncio.timeout(PATIENCE):
        channel = await wait_for_port(guest.machine)
        assert await channel.receive() is None


async def test_cancelled_choice_leaves_both_lines_open(guest: Guest) -> None:
    waiting = asyncio.create_task(wait_for_port(guest.machine))
    guest.say(PortKind.SERIAL, noise=NOISE)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    guest.say(PortKind.SERIAL, m.Awake(VERSION))
    async with asyncio.timeout(PATIENCE):
        await wait_for_port(guest.machine)

    assert guest.machine.port is PortKind.SERIAL
