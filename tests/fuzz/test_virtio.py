"""The virtio console against a guest that does anything, and one that does as Linux does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from fuzz.hostile_driver import RAM_SIZE, accesses, act_on_device, build_acts
from slipway.vmm.devices.buffers import BUDGET, BUFFER_COST
from slipway.vmm.devices.virtio_console import (
    Queue,
    VirtioConsole,
)
from slipway.vmm.devices.virtio_mmio import Register
from support.virtio_driver import MOST_PIECES, RAM_START, DriverHost, Guest, ScriptedBackend, Setup

SMALL = Setup(queue_size=4, buffer_size=64, write_size=256, memory=RAM_SIZE)
# Hardly more than this fits into a budget: each buffer costs some of it.
MOST_SENDS = BUDGET // BUFFER_COST + 1

queues = st.sampled_from(list(Queue)).map(int)


sizes = st.integers(0, 5000)
acts = build_acts(
    queues,
    ("receive", "drain", "credit", "state", "boot"),
    {"receive": sizes, "credit": sizes},
)


class Hostile:
    """A guest whose driver may be set up as it should be, and then does what it is told."""

    def __init__(self) -> None:
        self.line = ScriptedBackend(credit=1000)
        self.guest = Guest(SMALL, self.line)
        self.device = self.guest.device
        self.boot()

    def boot(self) -> None:
        self.guest.memory.free_all()
        self.guest.start()
        self.device.write(Register.STATUS, 4, 0)
        self.guest.boot()
        self.rings = self.guest.rings

    def act(self, kind: str, arguments: tuple[int, ...]) -> None:
        match kind, arguments:
            case "receive", (size,):
                assert 0 <= self.device.receive(bytes(size)) <= size
            case "credit", (size,):
                self.line.credit = size
            case "drain", ():
                self.device.drain()
            case "boot", ():
                self.boot()
            case "state", ():
                state = self.device.save_state()
                self.device.restore(state)
                assert self.device.save_state() == state
            case _:
                act_on_device((kind, arguments), self.device, self.guest.memory, self.rings)


@given(st.lists(acts, max_size=60))
def test_whatever_a_guest_does_is_survived(steps: list[tuple[str, tuple[int, ...]]]) -> None:
    hostile = Hostile()
    for kind, arguments in steps:
        hostile.line.offers.clear()
        began = time.process_time()
        hostile.act(kind, arguments)

        assert time.process_time() - began < 2
        assert len(hostile.line.offers) <= MOST_SENDS
        assert size_of(hostile.device) < 4000
        if hostile.device.failures and not hostile.device.reason:
            raise AssertionError("it failed for no reason")

    # And then another kernel finds a device as good as new.
    hostile.line.credit = None
    hostile.line.taken.clear()
    hostile.boot()
    assert hostile.guest.name == "agent"
    assert hostile.guest.write_port(b"hello") == 5
    if hostile.guest.host_connected:
        assert bytes(hostile.line.taken) == b"hello"
        assert hostile.device.receive(b"answer") == 6
        assert hostile.guest.read_port() == b"answer"


def size_of(device: VirtioConsole) -> int:
    """All that it keeps that could grow."""
    return len(repr(device.save_state())) + len(device.reason)


@given(st.lists(accesses, max_size=60), st.binary(min_size=1, max_size=64))
def test_registers_take_anything(accesses: list[tuple[int, int, int]], content: bytes) -> None:
    guest = Guest(SMALL)
    guest.memory.put(RAM_START, (content * RAM_SIZE)[:RAM_SIZE])
    for offset, size, value in accesses:
        guest.device.write(offset, size, value)
        assert 0 <= guest.device.read(offset, size) < 1 << 8 * size
    guest.device.drain()
    guest.device.receive(b"hello")


@given(
    rings=st.binary(min_size=64, max_size=512),
    notified=st.lists(queues, max_size=12),
    credit=st.integers(0, 1000) | st.none(),
)
def test_rings_may_be_full_of_anything(
    rings: bytes, notified: list[int], credit: int | None
) -> None:
    guest = Guest(SMALL).boot()
    guest.line.credit = credit
    for number, queue in enumerate(notified):
        ring = guest.rings[queue]
        part = rings[number * 16 :]
        guest.memory.put(ring.descriptors, part[: 16 * ring.size])
        guest.memory.put(ring.available + 4, part[-2 * ring.size :])
        ring.next_available += number & 3
        ring.offer(number & 3)
        guest.write(Register.QUEUE_NOTIFY, queue)
        guest.device.receive(part)
        guest.settle()
        assert len(guest.line.offers) <= MOST_SENDS * (number + 1)


# Streams


@dataclass
class Streams:
    """Bytes on their way in both directions, at whatever pace."""

    setup: Setup
    to_host: bytes
    to_guest: bytes
    written: int = 0
    handed: int = 0
    read: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.guest = Guest(self.setup).boot()
        self.host = DriverHost(self.guest.device)
        self.guest.line.can_receive = self.go_on  # type: ignore[method-assign]

    def go_on(self) -> None:
        self.host.go_on()

    def write(self, size: int, pieces: int) -> None:
        if not self.guest.write_sleeps:
            data = self.to_host[self.written : self.written + size]
            if data:
                pieces = min(pieces, self.setup.queue_size)
                self.written += self.guest.write_port(data, pieces)

    def read_some(self, size: int) -> None:
        if not self.guest.read_sleeps:
            self.read += self.guest.read_port(size)

    def hand(self, size: int) -> None:
        data = self.to_guest[self.handed : self.handed + size]
        self.handed += len(data)
        self.host.send(data)

    def clone(self) -> None:
        old = self.guest.device
        device = VirtioConsole(self.guest.memory, self.guest.pulse, self.guest.line)
        device.restore(old.save_state())
        old.reset()
        self.guest.device = self.host.device = device
        for ring in self.guest.rings:
            ring.device = device
        device.drain()

    def act(self, kind: str, size: int, pieces: int) -> None:
        match kind:
            case "write":
                self.write(size, pieces)
            case "read":
                self.read_some(size)
            case "hand":
                self.hand(size)
            case "interrupt":
                if self.guest.interrupts:
                    self.guest.interrupt()
            case "credit":
                self.guest.line.credit = size
                self.guest.device.drain()
            case "clone":
                self.clone()
        assert self.to_host.startswith(self.guest.line.taken)
        assert self.to_guest.startswith(self.read)
        assert self.guest.device.failures == 0


setups = st.builds(
    Setup,
    queue_size=st.sampled_from([1, 2, 4, 8, 16, 64]),
    buffer_size=st.integers(1, 80),
    write_size=st.integers(1, 300),
    event_idx=st.booleans(),
    indirect=st.booleans(),
    memory=st.just(1 << 17),
)
stream_acts = st.tuples(
    st.sampled_from(
        ["write", "write", "read", "hand", "interrupt", "interrupt", "credit", "clone"]
    ),
    st.integers(1, 30) | st.integers(1, 3000),
    st.integers(1, MOST_PIECES),
)


@given(
    setup=setups,
    to_host=st.integers(0, 6000),
    to_guest=st.integers(0, 6000),
    steps=st.lists(stream_acts, max_size=60),
    piece=st.integers(1, 200) | st.none(),
)
def test_streams_arrive_whole_and_in_order_at_any_pace(
    setup: Setup,
    to_host: int,
    to_guest: int,
    steps: list[tuple[str, int, int]],
    piece: int | None,
) -> None:
    content = bytes(number * 7 % 251 for number in range(6000))
    streams = Streams(setup, content[:to_host], content[::-1][:to_guest])
    streams.guest.line.piece = piece
    for step in steps:
        streams.act(*step)

    # From here on the line takes everything, and the guest's programs do what there is to do unless
    # they sleep. A wake-up that was lost on either way would be a standstill.
    streams.guest.line.credit = None
    streams.guest.device.drain()
    streams.hand(to_guest)
    for _ in range(3 * (to_host + to_guest) + 100):
        streams.act("interrupt", 0, 0)
        streams.act("read", 1000, 0)
        streams.act("write", 1000, 2)
    assert bytes(streams.guest.line.taken) == streams.to_host
    assert bytes(streams.read) == streams.to_guest


@given(
    messages=st.lists(st.integers(1, 200), max_size=30),
    open_at=st.integers(0, 30),
    close_at=st.integers(0, 30),
)
def test_a_port_that_opens_and_closes_has_what_was_sent_while_it_was_open(
    messages: list[int], open_at: int, close_at: int
) -> None:
    guest = Guest(SMALL)
    guest.probe()
    guest.settle()
    for number, size in enumerate(messages):
        if number == open_at:
            guest.open()
        if number == close_at:
            guest.close()
        taken = guest.device.receive(bytes([number]) * size)
        guest.settle()
        assert taken == (min(size, 4 * 64) if guest.is_open else 0)
        assert guest.device.opened == guest.is_open
        received = bytearray()
        while guest.is_open and (data := guest.read_port()):
            received += data
        assert received == bytes([number]) * taken
