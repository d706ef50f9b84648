"""The console's port, used by a guest that does as Linux does, and by some that do not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from slipway.vmm.devices.buffers import BUDGET
from slipway.vmm.devices.virtio_console import (
    MULTIPORT,
    Event,
    Queue,
    VirtioConsole,
)
from slipway.vmm.devices.virtio_mmio import Interrupt, Register, Status
from slipway.vmm.memory import GuestMemory
from support.virtio_driver import NO_PORT, RAM_START, DriverHost, Guest, ScriptedBackend, Setup

if TYPE_CHECKING:
    from collections.abc import Callable

KIB = 1024
ALL_SETUPS = [
    pytest.param(Setup(), id="linux"),
    pytest.param(Setup(event_idx=False), id="no events"),
    pytest.param(Setup(indirect=False), id="no indirect"),
    pytest.param(Setup(queue_size=1, buffer_size=3), id="one small buffer"),
    pytest.param(Setup(queue_size=4, buffer_size=100), id="few buffers"),
]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def count_used(guest: Guest, queue: Queue = Queue.TRANSMIT) -> int:
    """How many chains the driver has been shown as used."""
    return guest.memory.read(guest.rings[queue].used + 2, "<H")


@pytest.fixture
def guest() -> Guest:
    return Guest().boot()


@pytest.fixture
def device(guest: Guest) -> VirtioConsole:
    return guest.device


class TestHandshake:
    @pytest.mark.parametrize("setup", ALL_SETUPS)
    def test_makes_a_port_with_a_name(self, setup: Setup) -> None:
        guest = Guest(setup)
        guest.probe()
        guest.settle()

        events = [(message.port, message.event, message.value) for message in guest.messages]
        assert events == [
            (1, Event.PORT_ADD, 1),
            (1, Event.PORT_NAME, 1),
            (1, Event.PORT_OPEN, 1),
        ]
        assert guest.messages[1].rest == b"agent\0"
        assert guest.name == "agent"
        assert guest.host_connected
        assert not guest.device.failures

    def test_ends_when_the_program_opens_the_port(self) -> None:
        guest = Guest()
        guest.probe()
        guest.settle()
        assert not guest.device.opened
        assert guest.line.rooms == 0

        guest.open()

        assert guest.device.opened
        assert guest.line.rooms == 1
        guest.close()
        assert not guest.device.opened

    def test_waits_for_buffers(self) -> None:
        guest = Guest(Setup(queue_size=1))
        guest.negotiate()
        guest.rings = [guest.find_queue(index) for index in Queue]
        guest.control_slot = guest.memory.allocate(8)
        guest.add_status(Status.DRIVER_OK)

        guest.send_control(NO_PORT, Event.DEVICE_READY, 1)
        guest.send_control(1, Event.PORT_READY, 1)
        assert guest.messages == []
        for _ in range(3):
            guest.rings[Queue.CONTROL_RECEIVE].kick()
            if not guest.rings[Queue.CONTROL_RECEIVE].tokens:
                guest.fill_queue(Queue.CONTROL_RECEIVE, 64)
        guest.settle()

        assert [message.event for message in guest.messages[:3]] == [
            *(Event.PORT_ADD, Event.PORT_NAME, Event.PORT_OPEN)
        ]

    def test_of_who_asks_and_never_listens_costs_nothing(self) -> None:
        guest = Guest()
        guest.negotiate()
        guest.rings = [guest.find_queue(index) for index in Queue]
        guest.control_slot = guest.memory.allocate(8)
        guest.add_status(Status.DRIVER_OK)
        for _ in range(1000):
            guest.send_control(NO_PORT, Event.DEVICE_READY, 1)
            guest.send_control(1, Event.PORT_READY, 1)

        guest.fill_queue(Queue.CONTROL_RECEIVE, 64)

        assert count_used(guest, Queue.CONTROL_RECEIVE) == 3

    def test_needs_ports(self) -> None:
        guest = Guest()
        guest.negotiate(without=MULTIPORT)
        assert not guest.status & Status.FEATURES_OK

    @pytest.mark.parametrize(
        "message",
        [
            (NO_PORT, Event.DEVICE_READY, 0),
            (0, Event.PORT_OPEN, 1),
            (2, Event.PORT_READY, 1),
            (1, Event.PORT_READY, 0),
            (1, Event.PORT_NAME, 1),
            (1, 99, 1),
        ],
    )
    def test_ignores_what_says_nothing(self, message: tuple[int, int, int]) -> None:
        guest = Guest()
        guest.probe()
        guest.settle()
        before = len(guest.messages)

        guest.send_control(*message)
        guest.settle()

        assert len(guest.messages) == before
        assert not guest.device.opened
        assert not guest.device.failures

    def test_control_messages_may_come_in_pieces(self, guest: Guest) -> None:
        vring = guest.rings[Queue.CONTROL_TRANSMIT]
        slot = guest.memory.allocate(8)
        guest.memory.put(slot, bytes([1, 0, 0, 0, 6, 0, 0, 0]))

        vring.add([(slot, 3), (slot + 3, 1), (slot + 4, 4)], writable=False)
        vring.kick()

        assert not guest.device.opened
        assert vring.get() == (0, 0)

    def test_control_messages_that_are_cut_off_are_dropped(self, guest: Guest) -> None:
        vring = guest.rings[Queue.CONTROL_TRANSMIT]
        slot = guest.memory.allocate(8)

        vring.add([(slot, 7)], writable=False)
        vring.kick()

        assert guest.device.opened
        assert not guest.device.failures
        assert vring.get() == (0, 0)


class TestFromGuest:
    @pytest.mark.parametrize("setup", ALL_SETUPS)
    def test_bytes_arrive(self, setup: Setup) -> None:
        guest = Guest(setup).boot()
        data = noise(100_000)
        sent = 0
        while sent < len(data):
            sent += guest.write_port(data[sent : sent + 1000], pieces=min(3, setup.queue_size))
            guest.settle()

        assert bytes(guest.line.taken) == data
        assert not guest.device.failures

    def test_a_write_is_one_exit_and_one_send(self, guest: Guest) -> None:
        vring = guest.rings[Queue.TRANSMIT]
        for number in range(16):
            assert guest.write_port(noise(32 * KIB, number)) == 32 * KIB

        assert vring.kicks == 16
        assert guest.line.offers == [32 * KIB] * 16

    def test_interrupts_come_once_for_many(self, guest: Guest) -> None:
        guest.interrupts = 0
        for number in range(15):
            guest.write_port(b"x")
            assert count_used(guest) == number + 1  # but who looks sees it
        assert guest.interrupts == 0

        guest.write_port(b"x")

        assert guest.interrupts == 1

    def test_interrupts_come_for_what_is_sent_later(self, guest: Guest) -> None:
        guest.line.credit = 0
        guest.write_port(b"x")
        guest.interrupts = 0
        guest.line.credit = None

        guest.device.drain()

        assert guest.interrupts == 1

    def test_interrupts_of_a_small_queue_come_at_once(self) -> None:
        guest = Guest(Setup(queue_size=8)).boot()
        guest.interrupts = 0
        guest.write_port(b"x")
        assert guest.interrupts == 1

    def test_several_buffers_of_one_write(self, guest: Guest) -> None:
        guest.write_port(noise(1000), pieces=7)
        assert bytes(guest.line.taken) == noise(1000)

    def test_are_sent_before_the_port_is_open(self, guest: Guest) -> None:
        # What was written just before it was closed is still on its way.
        guest.line.credit = 0
        guest.write_port(b"last words")
        guest.close()
        guest.line.credit = None

        guest.device.drain()

        assert bytes(guest.line.taken) == b"last words"


class TestBackPressure:
    def test_holds_the_guests_buffers(self, guest: Guest) -> None:
        guest.line.credit = 0
        written = 0
        while taken := guest.write_port(b"x" * 100):
            written += taken
        assert written == 128 * 100
        assert count_used(guest) == 0
        assert guest.line.offers == [100]  # and then the guest does not notify any more

        guest.line.credit = None
        guest.device.drain()

        assert len(guest.line.taken) == written
        assert count_used(guest) == 128
        assert guest.write_port(b"x") == 1

    def test_goes_on_in_the_middle_of_a_buffer(self, guest: Guest) -> None:
        data = noise(10_000)
        guest.line.credit = 0
        guest.write_port(data[:6000], pieces=3)
        guest.write_port(data[6000:])

        for _ in range(100):
            assert len(guest.line.taken) < len(data)
            guest.line.credit = 101
            guest.device.drain()

        assert bytes(guest.line.taken) == data

    def test_goes_on_between_two_buffers(self, guest: Guest) -> None:
        guest.line.credit = 20
        guest.write_port(b"0123456789" * 4, pieces=4)
        guest.line.credit = None

        guest.device.drain()

        assert bytes(guest.line.taken) == b"0123456789" * 4
        assert guest.line.offers == [10, 10, 10, 10, 10]

    def test_asks_until_nothing_is_taken(self, guest: Guest) -> None:
        # So that a line may say that it has room when it next has, and not before.
        guest.line.piece = 400
        guest.line.credit = 1000
        guest.write_port(b"x" * 3000)
        assert guest.line.offers == [3000, 2600, 2200, 2000]

    def test_a_buffer_is_used_when_all_of_it_is_sent(self) -> None:
        guest = Guest(Setup(queue_size=1)).boot()
        guest.line.credit = 99
        guest.write_port(b"x" * 100)
        assert count_used(guest) == 0

        guest.line.credit = 1
        guest.device.drain()

        assert count_used(guest) == 1

    def test_a_notification_meanwhile_does_no_harm(self, guest: Guest) -> None:
        guest.line.credit = 5
        guest.write_port(b"0123456789")
        for _ in range(3):
            guest.write(Register.QUEUE_NOTIFY, Queue.TRANSMIT)
        guest.line.credit = None
        guest.device.drain()
        assert bytes(guest.line.taken) == b"0123456789"

    def test_drain_of_nothing(self, guest: Guest) -> None:
        guest.device.drain()
        Guest().device.drain()
        assert guest.line.offers == []

    def test_buffers_that_shrink_meanwhile(self, guest: Guest) -> None:
        guest.line.credit = 50
        vring = guest.rings[Queue.TRANSMIT]
        guest.write_port(b"x" * 100)
        head = next(iter(vring.tokens))
        address = guest.memory.read(vring.descriptors + 16 * head, "<Q")
        guest.write_port(b"next")
        vring.describe(head, address, 10, 0)
        guest.line.credit = None

        guest.device.drain()

        assert bytes(guest.line.taken) == b"x" * 50 + b"next"


class TestToGuest:
    @pytest.mark.parametrize("setup", ALL_SETUPS)
    def test_bytes_arrive(self, setup: Setup) -> None:
        guest = Guest(setup).boot()
        host = DriverHost(guest.device)
        guest.line.can_receive = host.go_on  # type: ignore[method-assign]
        data = noise(20_000)
        received = b""

        for start in range(0, len(data), 5000):
            host.send(data[start : start + 5000])
            guest.settle()
            received += guest.read_all()
        while host.backlog:
            guest.settle()
            received += guest.read_all()
        received += guest.read_all()

        assert received == data
        assert not guest.device.failures

    def test_one_interrupt_for_all_that_fits(self, guest: Guest, device: VirtioConsole) -> None:
        guest.interrupts = 0
        assert device.receive(noise(64 * KIB)) == 64 * KIB
        assert guest.interrupts == 1
        assert count_used(guest, Queue.RECEIVE) == 16

    def test_takes_what_there_are_buffers_for(self, guest: Guest, device: VirtioConsole) -> None:
        assert device.receive(bytes(1 << 20)) == 128 * 4 * KIB
        assert device.receive(b"x") == 0

    def test_nothing_is_not_a_buffer(self, guest: Guest, device: VirtioConsole) -> None:
        assert device.receive(b"") == 0
        assert count_used(guest, Queue.RECEIVE) == 0

    def test_any_bytes_like(self, guest: Guest, device: VirtioConsole) -> None:
        device.receive(memoryview(b"0123456789")[2:5])
        assert guest.read_port() == b"234"

    def test_into_several_buffers_of_one_chain(self, guest: Guest, device: VirtioConsole) -> None:
        device.receive(bytes(128 * 4 * KIB))
        slot = guest.memory.allocate(100)
        guest.rings[Queue.RECEIVE].get()
        guest.rings[Queue.RECEIVE].add([(slot, 3), (slot + 50, 50)], writable=True)

        assert device.receive(b"0123456789") == 10

        assert guest.memory.get(slot, 3) == b"012"
        assert guest.memory.get(slot + 50, 7) == b"3456789"

    def test_room_is_made_when_half_the_buffers_are_back(
        self, guest: Guest, device: VirtioConsole
    ) -> None:
        device.receive(bytes(128 * 4 * KIB + 1))
        guest.settle()
        kicks, rooms = guest.rings[Queue.RECEIVE].kicks, guest.line.rooms

        for _ in range(63):
            guest.read_port()
        assert guest.rings[Queue.RECEIVE].kicks == kicks
        guest.read_port()

        assert guest.rings[Queue.RECEIVE].kicks == kicks + 1
        assert guest.line.rooms == rooms + 1
        assert device.receive(bytes(1 << 20)) == 64 * 4 * KIB

    def test_no_notification_while_there_is_room(self, guest: Guest, device: VirtioConsole) -> None:
        kicks, rooms = guest.rings[Queue.RECEIVE].kicks, guest.line.rooms
        for number in range(1000):
            device.receive(noise(100, number))
            guest.settle()
            assert guest.read_port() == noise(100, number)

        assert guest.rings[Queue.RECEIVE].kicks == kicks
        assert guest.line.rooms == rooms

    def test_a_closed_port_takes_nothing(self) -> None:
        guest = Guest()
        assert guest.device.receive(b"x") == 0
        guest.probe()
        guest.settle()
        assert guest.device.receive(b"x") == 0
        guest.open()
        assert guest.device.receive(b"x") == 1
        guest.close()
        assert guest.device.receive(b"x") == 0

    def test_an_opened_port_is_told_and_may_be_given_at_once(self) -> None:
        guest = Guest()
        host = DriverHost(guest.device)
        guest.line.can_receive = host.go_on  # type: ignore[method-assign]
        guest.probe()
        guest.settle()
        host.send(b"early")

        guest.open()
        guest.settle()

        assert guest.read_port() == b"early"


class TestReset:
    def test_in_the_middle(self, guest: Guest, device: VirtioConsole) -> None:
        guest.line.credit = 5
        guest.write_port(b"0123456789")
        device.receive(bytes(1 << 20))

        guest.write(Register.STATUS, 0)

        assert not device.opened
        assert device.receive(b"x") == 0
        device.drain()
        guest.line.credit = None
        guest.reboot()
        guest.write_port(b"anew")
        device.receive(b"answer")
        guest.settle()
        assert guest.read_port() == b"answer"
        assert bytes(guest.line.taken) == b"01234anew"

    def test_lets_go_of_memory(self) -> None:
        memory = GuestMemory([(RAM_START, 8 << 20)])
        guest = Guest()
        guest.memory.view = memory.view  # type: ignore[method-assign]
        guest.memory.ram = memory.view(RAM_START, 8 << 20)  # type: ignore[assignment]
        guest.boot()
        guest.write_port(b"x")
        assert bytes(guest.line.taken) == b"x"
        del guest.memory.ram

        guest.device.reset()

        memory.close()


class TestBoundedWork:
    def test_a_flood_is_sent_in_parts(self, guest: Guest, device: VirtioConsole) -> None:
        vring = guest.rings[Queue.TRANSMIT]
        address = guest.write_slots[0]
        guest.interrupts = 0
        for _ in range(8):
            vring.add([(address, 1 << 20)], writable=False)
        vring.kick()
        first = len(guest.line.taken)
        assert first <= BUDGET
        assert guest.interrupts == 1

        guest.settle()

        assert len(guest.line.taken) == 8 << 20
        assert guest.line.offers == [1 << 20] * 8

    def test_one_byte_at_a_time(self, guest: Guest, device: VirtioConsole) -> None:
        guest.line.piece = 1
        guest.write_port(noise(32 * KIB))
        assert len(guest.line.taken) < 2 * KIB

        guest.settle()

        assert bytes(guest.line.taken) == noise(32 * KIB)

    def test_a_guest_that_adds_as_fast_as_it_is_sent(
        self, guest: Guest, device: VirtioConsole
    ) -> None:
        def send(data: bytes | memoryview) -> int:
            vring.offer(0)
            guest.line.offers.append(len(data))
            return len(data)

        vring = guest.rings[Queue.TRANSMIT]
        vring.describe(0, guest.write_slots[0], 1, 0)
        guest.line.send = send  # type: ignore[method-assign]
        vring.offer(0)
        vring.kick()

        assert len(guest.line.offers) < 2 * KIB
        assert not device.failures

    def test_a_guest_that_talks_as_fast_as_it_is_heard(self, guest: Guest) -> None:
        vring = guest.rings[Queue.CONTROL_TRANSMIT]
        original = guest.device._handle

        def handle(port: int, event: int, value: int) -> None:
            original(port, event, value)
            heard.append(event)
            if len(heard) < 300:
                vring.offer(0)

        heard: list[int] = []
        guest.device._handle = handle  # type: ignore[method-assign]
        vring.describe(0, guest.control_slot, 8, 0)
        vring.offer(0)
        vring.kick()
        assert len(heard) < 200

        guest.settle()

        assert len(heard) == 300


def break_transmit_direction(guest: Guest) -> None:
    vring = guest.rings[Queue.TRANSMIT]
    vring.add([(guest.write_slots[0], 10)], writable=True)
    vring.kick()


def break_transmit_address(guest: Guest) -> None:
    vring = guest.rings[Queue.TRANSMIT]
    vring.add([(0, 10)], writable=False)
    vring.kick()


def break_transmit_behind(guest: Guest) -> None:
    vring = guest.rings[Queue.TRANSMIT]
    vring.add([(guest.write_slots[0], 10), (guest.memory.end - 9, 10)], writable=False)
    vring.kick()


def break_receive_direction(guest: Guest) -> None:
    guest.device.receive(bytes(128 * 4096))
    guest.rings[Queue.RECEIVE].free.append(0)
    guest.rings[Queue.RECEIVE].add([(guest.write_slots[0], 10)], writable=False)
    guest.device.receive(b"x")


def break_receive_index(guest: Guest) -> None:
    guest.memory.write(guest.rings[Queue.RECEIVE].available + 2, "<H", 0x4000)
    guest.device.receive(bytes(128 * 4096 + 1))


def break_control_receive(guest: Guest) -> None:
    vring = guest.rings[Queue.CONTROL_RECEIVE]
    for index in range(32):
        vring.describe(index, guest.write_slots[0], 8, 2)
    guest.send_control(1, Event.PORT_READY, 1)


def break_control_transmit(guest: Guest) -> None:
    vring = guest.rings[Queue.CONTROL_TRANSMIT]
    vring.offer(9999)
    vring.kick()


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (break_transmit_direction, "direction"),
        (break_transmit_address, "bytes at"),
        (break_transmit_behind, "bytes at"),
        (break_receive_direction, "direction"),
        (break_receive_index, "buffers in a queue"),
        (break_control_receive, "8 bytes for a control message"),
        (break_control_transmit, "descriptor 9999 of 32"),
    ],
)
def test_a_broken_driver_needs_a_reset(
    guest: Guest, device: VirtioConsole, break_it: Callable[[Guest], None], reason: str
) -> None:
    break_it(guest)

    assert device.failures == 1
    assert reason in device.reason
    assert guest.status & Status.DEVICE_NEEDS_RESET
    assert guest.read(Register.INTERRUPT_STATUS) & Interrupt.CONFIGURATION
    assert guest.interrupts
    assert bytes(guest.line.taken) == b""

    # Then it is dead, whatever anybody does.
    assert not device.opened
    assert device.receive(b"x") == 0
    device.drain()
    for queue in range(7):
        guest.write(Register.QUEUE_NOTIFY, queue)
    assert device.failures == 1
    assert guest.line.offers == []

    assert guest.reboot().name == "agent"


def test_queues_that_were_never_set_up() -> None:
    guest = Guest()
    guest.negotiate()
    guest.add_status(Status.DRIVER_OK)
    for queue in (*range(8), 0xFFFF_FFFF):
        guest.write(Register.QUEUE_NOTIFY, queue)
    guest.device.drain()
    assert not guest.device.failures


@pytest.mark.parametrize("start", [0xFFFA, 0xFFFF])
def test_indices_wrap_where_16_bits_end(start: int) -> None:
    guest = Guest(Setup(queue_size=16))
    guest.negotiate()
    guest.rings = [guest.find_queue(index) for index in Queue]
    state = guest.device.save_state()
    for vring, queue in zip(guest.rings, state.transport.queues, strict=True):
        vring.jump(start)
        queue.next_available = queue.next_used = queue.notified = start
    guest.device.restore(state)
    guest.write_slots = [guest.memory.allocate(32 * KIB) for _ in range(16)]
    guest.control_slot = guest.memory.allocate(8)
    guest.add_status(Status.DRIVER_OK)
    guest.fill_queue(Queue.CONTROL_RECEIVE, 64)
    guest.send_control(NO_PORT, Event.DEVICE_READY, 1)
    guest.settle()
    guest.open()

    for number in range(100):
        assert guest.write_port(noise(100, number))
        assert guest.device.receive(noise(5000, number)) == 5000
        guest.settle()
        assert guest.read_all() == noise(5000, number)

    assert bytes(guest.line.taken) == b"".join(noise(100, number) for number in range(100))
    assert not guest.device.failures


def clone(guest: Guest) -> Guest:
    """The same guest on a device that was given the other's state."""
    old = guest.device
    guest.device = VirtioConsole(guest.memory, guest.pulse, guest.line)
    guest.device.restore(old.save_state())
    for vring in guest.rings:
        vring.device = guest.device
    old.reset()
    return guest


def test_a_console_goes_on_from_its_state(guest: Guest) -> None:
    guest.line.credit = 5
    guest.write_port(b"0123456789")
    guest.device.receive(bytes(1 << 20))
    guest.settle()
    before = guest.device.save_state()

    clone(guest)

    assert guest.device.save_state() == before
    assert guest.device.opened
    guest.line.credit = None
    guest.device.drain()
    assert bytes(guest.line.taken) == b"0123456789"
    rooms = guest.line.rooms
    assert len(guest.read_all()) == 128 * 4096
    assert guest.line.rooms == rooms + 1
    assert guest.device.receive(b"more") == 4
    guest.settle()
    assert guest.read_all() == b"more"


def test_a_state_is_a_copy(guest: Guest) -> None:
    state = guest.device.save_state()
    guest.write(Register.STATUS, 0)
    assert state.opened
    assert state.transport.status & Status.DRIVER_OK


@pytest.mark.parametrize("steps", range(0, 40))
def test_a_handshake_goes_on_from_its_state(steps: int) -> None:
    guest = Guest(Setup(queue_size=4))
    guest.probe()
    for step in range(steps):
        if step % 3 == 2:
            clone(guest)
        if guest.interrupts:
            guest.interrupt()
    guest.settle()
    guest.open()
    guest.write_port(b"here")
    assert (guest.name, bytes(guest.line.taken)) == ("agent", b"here")


def test_unused_line_is_fine() -> None:
    guest = Guest(line=ScriptedBackend(credit=0)).boot()
    assert guest.name == "agent"
