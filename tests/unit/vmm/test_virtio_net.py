"""The network device, used by a guest that does as Linux does, and by some that do not."""

from __future__ import annotations

import os
import random
import select
import struct
from typing import TYPE_CHECKING

import pytest

from slipway.machine.gateway import addresses
from slipway.vmm.devices.virtio_mmio import Interrupt, Register, Status
from slipway.vmm.devices.virtio_net import (
    ETHERNET_HEADER,
    GUEST_MAC,
    MAX_FRAME,
    MTU,
    NetFeature,
    Queue,
    VirtioNet,
)
from slipway.vmm.memory import GuestMemory
from support.network_driver import DATA_VALID, HEADER, NetworkGuest, NetworkSetup
from support.virtio_driver import RAM_START

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALL_SETUPS = [
    pytest.param(NetworkSetup(), id="linux"),
    pytest.param(NetworkSetup(event_idx=False), id="no events"),
    pytest.param(NetworkSetup(indirect=False), id="no indirect"),
    pytest.param(NetworkSetup(queue_size=64, buffer_size=1526), id="small buffers"),
    pytest.param(NetworkSetup(queue_size=16, buffer_size=65546), id="large buffers"),
    pytest.param(NetworkSetup(buffers=20), id="few buffers"),
]
WATCHED = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
SIZES = [ETHERNET_HEADER, 60, 1514, 4084, 4085, 20_000, MAX_FRAME]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def count_used(guest: NetworkGuest, queue: Queue) -> int:
    """How many chains the driver has been shown as used."""
    return guest.memory.read(guest.rings[queue].used + 2, "<H")


@pytest.fixture
def guests() -> Iterator[Callable[..., NetworkGuest]]:
    """Guests that have booted, with the given setup."""
    made: list[NetworkGuest] = []

    def boot(setup: NetworkSetup | None = None) -> NetworkGuest:
        made.append(NetworkGuest(setup).boot())
        return made[-1]

    yield boot
    for guest in made:
        guest.peer.close()


@pytest.fixture
def guest(guests: Callable[..., NetworkGuest]) -> NetworkGuest:
    return guests()


def deliver(guest: NetworkGuest) -> None:
    """Tell the device of an edge of its socket, as epoll does."""
    guest.device.ready(readable=True)


def fill_socket(guest: NetworkGuest) -> int:
    """Send frames until the device cannot; their number, the blocked one included."""
    for number in range(1000):
        before = count_used(guest, Queue.TRANSMIT)
        guest.send(noise(50_000, number))
        if count_used(guest, Queue.TRANSMIT) == before:
            return number + 1
    raise AssertionError("the socket never was full")


class TestConfiguration:
    def test_names_the_wire_of_the_gateway(self, guest: NetworkGuest) -> None:
        config = b"".join(
            guest.device.read(Register.CONFIG + at, 4).to_bytes(4, "little") for at in (0, 4, 8)
        )

        mac, mtu = config[:6], struct.unpack_from("<H", config, 10)[0]

        assert (mac, mtu) == (addresses.GUEST_MAC, addresses.MTU) == (GUEST_MAC, MTU)
        assert MAX_FRAME == addresses.MAX_FRAME

    @pytest.mark.parametrize("feature", [NetFeature.MRG_RXBUF, NetFeature.GUEST_CSUM])
    def test_driver_without_a_needed_feature_is_refused(
        self, guest: NetworkGuest, feature: NetFeature
    ) -> None:
        guest.negotiate(without=feature)
        assert not guest.status & Status.FEATURES_OK


class TestFromGuest:
    @pytest.mark.parametrize("setup", ALL_SETUPS)
    def test_frames_arrive_whole(
        self, guests: Callable[..., NetworkGuest], setup: NetworkSetup
    ) -> None:
        guest = guests(setup)
        received = []
        for size in SIZES * 20:
            assert guest.send(noise(size, size), pieces=3)
            received += guest.peer.receive_all()
            deliver(guest)
            guest.settle()

        assert received == [noise(size, size) for size in SIZES * 20]
        assert not guest.device.failures
        assert not guest.device.dropped

    @pytest.mark.parametrize("cut", [1, 5, 11])
    def test_header_may_be_cut_anywhere(self, guest: NetworkGuest, cut: int) -> None:
        guest.memory.put(guest.data, bytes(12) + noise(60))
        ring = guest.rings[Queue.TRANSMIT]
        parts = [(guest.data, cut), (guest.data + cut, 12 - cut), (guest.data + 12, 60)]
        ring.add(parts, writable=False)
        ring.kick()

        assert guest.peer.receive_all() == [noise(60)]

    def test_header_may_be_in_front_of_the_data(self, guest: NetworkGuest) -> None:
        guest.memory.put(guest.data, bytes(12) + noise(60))
        ring = guest.rings[Queue.TRANSMIT]
        ring.add([(guest.data, 72)], writable=False)
        ring.kick()

        assert guest.peer.receive_all() == [noise(60)]

    @pytest.mark.parametrize("size", [0, 1, ETHERNET_HEADER - 1, MAX_FRAME + 1, 65536])
    def test_frame_of_a_wrong_length_is_dropped_and_its_buffer_used(
        self, guest: NetworkGuest, size: int
    ) -> None:
        guest.send(bytes(size))
        guest.send(noise(60))

        assert guest.peer.receive_all() == [noise(60)]
        assert guest.device.dropped == 1
        assert count_used(guest, Queue.TRANSMIT) == 2
        assert guest.interrupts  # for the dropped frame: its buffer can be freed

    def test_full_socket_keeps_frames_until_the_peer_reads(self, guest: NetworkGuest) -> None:
        number = fill_socket(guest)
        assert guest.send(noise(60))

        received = guest.peer.receive_all()
        while len(received) < number + 1:
            guest.device.ready(readable=False)
            more = guest.peer.receive_all()
            assert more, "a frame was lost"
            received += more

        assert received == [*(noise(50_000, n) for n in range(number)), noise(60)]
        assert not guest.device.dropped

    @pytest.mark.parametrize("size", [60, 1514, 50_000])
    def test_edges_of_the_socket_suffice_to_go_on(self, guest: NetworkGuest, size: int) -> None:
        """As VmmProcess does it: an edge that is missed would be a standstill."""
        with select.epoll() as poll:
            poll.register(guest.device.descriptor, WATCHED)
            chance = random.Random(size)
            frames = [size.to_bytes(4) + number.to_bytes(56) for number in range(1500)]
            sent = 0
            received: list[bytes] = []
            turns = 0
            while len(received) < len(frames):
                turns += 1
                assert turns < 10_000, f"a standstill after {len(received)} frames"
                while sent < len(frames) and chance.random() < 0.95:
                    if not guest.send(frames[sent].ljust(size, b".")):
                        break
                    sent += 1
                for _ in range(chance.randrange(40)):
                    if (frame := guest.peer.receive()) is None:
                        break
                    received.append(frame[:60])
                for _, events in poll.poll(0):
                    guest.device.ready(readable=bool(events & select.EPOLLIN))
                guest.settle()

            assert received == frames

    def test_interrupt_for_a_sent_frame_comes_with_the_edge_of_the_socket(
        self, guest: NetworkGuest
    ) -> None:
        guest.send(noise(60))
        assert guest.interrupts == 0
        assert count_used(guest, Queue.TRANSMIT) == 1

        guest.peer.receive_all()
        guest.device.ready(readable=False)

        assert guest.interrupts == 1

    def test_answer_and_sent_frame_share_an_interrupt(self, guest: NetworkGuest) -> None:
        guest.send(noise(60))
        guest.peer.receive_all()
        guest.peer.send(noise(60))

        deliver(guest)

        assert guest.interrupts == 1
        assert guest.settle() == [noise(60)]

    def test_peer_that_has_ended_costs_frames_and_nothing_else(self, guest: NetworkGuest) -> None:
        guest.peer.socket.close()
        for number in range(600):
            guest.send(noise(60, number))
            deliver(guest)
            guest.settle()

        assert guest.device.dropped == 600
        assert guest.device.running


class TestToGuest:
    @pytest.mark.parametrize("setup", ALL_SETUPS)
    def test_frames_arrive_whole(
        self, guests: Callable[..., NetworkGuest], setup: NetworkSetup
    ) -> None:
        guest = guests(setup)
        received = []
        for size in SIZES * 20:
            guest.peer.send(noise(size, size))
            deliver(guest)
            received += guest.settle()

        assert received == [noise(size, size) for size in SIZES * 20]
        assert not guest.device.failures
        assert not guest.device.dropped

    def test_header_says_that_checksums_need_no_check(self, guest: NetworkGuest) -> None:
        guest.peer.send(noise(10_000))
        deliver(guest)
        guest.settle()

        assert HEADER.unpack(guest.header) == (DATA_VALID, 0, 0, 0, 0, 0, 3)

    def test_batch_is_published_with_one_interrupt(self, guest: NetworkGuest) -> None:
        for number in range(50):
            guest.peer.send(noise(60, number))

        deliver(guest)

        assert guest.interrupts == 1
        assert guest.settle() == [noise(60, number) for number in range(50)]

    def test_frame_waits_for_buffers(self, guests: Callable[..., NetworkGuest]) -> None:
        guest = guests(NetworkSetup(buffers=5))
        for number in range(3):
            guest.peer.send(noise(10_000, number))

        deliver(guest)

        assert count_used(guest, Queue.RECEIVE) == 3
        assert guest.settle() == [noise(10_000, number) for number in range(3)]
        assert not guest.device.dropped

    def test_too_few_buffers_stay_with_the_device(
        self, guests: Callable[..., NetworkGuest]
    ) -> None:
        guest = guests(NetworkSetup(buffers=2))
        guest.peer.send(noise(10_000))
        guest.peer.send(noise(60))

        deliver(guest)
        assert count_used(guest, Queue.RECEIVE) == 0
        guest.buffer_slots.append(guest.memory.allocate(4096))
        guest.refill()

        assert guest.settle() == [noise(10_000), noise(60)]

    def test_frame_that_no_queue_of_this_size_can_take_is_dropped(
        self, guests: Callable[..., NetworkGuest]
    ) -> None:
        guest = guests(NetworkSetup(queue_size=4, buffer_size=1000))
        guest.peer.send(noise(MAX_FRAME))
        guest.peer.send(noise(3900))

        deliver(guest)

        assert guest.settle() == [noise(3900)]
        assert guest.device.dropped == 1

    @pytest.mark.parametrize("size", [1, ETHERNET_HEADER - 1, MAX_FRAME + 1, 80_000])
    def test_frame_of_a_wrong_length_is_dropped(self, guest: NetworkGuest, size: int) -> None:
        guest.peer.send(bytes(size))
        guest.peer.send(noise(60))

        deliver(guest)

        assert guest.settle() == [noise(60)]
        assert guest.device.dropped == 1

    def test_buffers_may_be_in_pieces_smaller_than_the_header(
        self, guests: Callable[..., NetworkGuest]
    ) -> None:
        guest = guests(NetworkSetup(buffers=0))
        at = guest.memory.allocate(100)
        parts = [(at, 5), (at + 5, 6), (at + 11, 3), (at + 14, 60)]
        guest.rings[Queue.RECEIVE].add(parts, writable=True)
        guest.peer.send(noise(60))

        deliver(guest)

        assert guest.memory.get(at, 72) == HEADER.pack(DATA_VALID, 0, 0, 0, 0, 0, 1) + noise(60)
        assert guest.rings[Queue.RECEIVE].get() == (0, 72)

    def test_frames_that_come_before_the_driver_wait_for_it(self) -> None:
        guest = NetworkGuest()
        guest.peer.send(noise(60))
        deliver(guest)

        guest.boot()

        assert guest.settle() == [noise(60)]
        guest.peer.close()


class TestBoundedWork:
    def test_flood_of_the_guest_is_sent_in_parts(self, guest: NetworkGuest) -> None:
        ring = guest.rings[Queue.TRANSMIT]
        guest.peer.socket.close()  # no frame blocks
        for _ in range(200):
            ring.add([(guest.data, 12), (guest.data, 50_000)], writable=False)
        ring.kick()
        first = count_used(guest, Queue.TRANSMIT)
        assert 0 < first < 200

        guest.settle()

        assert count_used(guest, Queue.TRANSMIT) == 200

    def test_guest_that_adds_as_fast_as_frames_are_sent_is_left(
        self, guest: NetworkGuest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def write(descriptor: int, chain: list[memoryview]) -> int:
            ring.offer(0)
            sizes.append(sum(map(len, chain)))
            return sizes[-1]

        ring = guest.rings[Queue.TRANSMIT]
        sizes: list[int] = []
        monkeypatch.setattr(os, "writev", write)
        ring.describe(0, guest.data, 12 + 60, 0)
        ring.offer(0)
        ring.kick()

        assert len(sizes) < 2048
        assert not guest.device.failures

    def test_peer_that_sends_as_fast_as_frames_are_read_is_left(
        self, guests: Callable[..., NetworkGuest], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read(descriptor: int, buffers: list[memoryview]) -> int:
            reads.append(descriptor)
            ring.offer(0)
            return 60

        guest = guests(NetworkSetup(buffers=0))
        ring = guest.rings[Queue.RECEIVE]
        ring.describe(0, guest.data, 4096, 2)
        reads: list[int] = []
        monkeypatch.setattr(os, "readv", read)

        deliver(guest)

        assert 0 < len(reads) < 1024
        assert guest.interrupts
        assert guest.device.save_state().postponed == 1 << Queue.RECEIVE

    def test_chain_of_the_most_buffers_is_bounded(self, guest: NetworkGuest) -> None:
        table = guest.memory.allocate(16 * 256)
        for index in range(256):
            following = (index + 1, 1) if index < 255 else (0, 0)
            guest.memory.write(
                table + 16 * index, "<QIHH", guest.data, 255, following[1], following[0]
            )
        ring = guest.rings[Queue.TRANSMIT]
        for head in range(256):
            ring.describe(head, table, 16 * 256, 4)
            ring.offer(head)
        ring.kick()

        assert count_used(guest, Queue.TRANSMIT) <= 5
        assert not guest.device.failures


def break_transmit_direction(guest: NetworkGuest) -> None:
    ring = guest.rings[Queue.TRANSMIT]
    ring.add([(guest.data, 100)], writable=True)
    ring.kick()


def break_transmit_address(guest: NetworkGuest) -> None:
    ring = guest.rings[Queue.TRANSMIT]
    ring.add([(guest.data, 100), (guest.memory.end - 9, 10)], writable=False)
    ring.kick()


def break_transmit_header(guest: NetworkGuest) -> None:
    guest.send(b"", header=11)


def break_transmit_index(guest: NetworkGuest) -> None:
    guest.memory.write(guest.rings[Queue.TRANSMIT].available + 2, "<H", 0x4000)
    guest.write(Register.QUEUE_NOTIFY, Queue.TRANSMIT)


def break_receive_direction(guest: NetworkGuest) -> None:
    for head in range(256):
        guest.rings[Queue.RECEIVE].describe(head, guest.data, 100, 0)
    guest.peer.send(noise(60))
    deliver(guest)


def break_receive_behind(guest: NetworkGuest) -> None:
    """The first chains of a frame are right, and a later one is not."""
    ring = guest.rings[Queue.RECEIVE]
    head = guest.memory.read(ring.available + 4 + 2 * 2, "<H")
    ring.describe(head, guest.memory.end - 9, 10, 2)
    guest.peer.send(noise(20_000))
    deliver(guest)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (break_transmit_direction, "direction"),
        (break_transmit_address, "bytes at"),
        (break_transmit_header, "shorter than the header"),
        (break_transmit_index, "buffers in a queue"),
        (break_receive_direction, "direction"),
        (break_receive_behind, "bytes at"),
    ],
)
def test_broken_driver_needs_a_reset(
    guest: NetworkGuest, break_it: Callable[[NetworkGuest], None], reason: str
) -> None:
    break_it(guest)

    assert guest.device.failures == 1
    assert reason in guest.device.reason
    assert guest.status & Status.DEVICE_NEEDS_RESET
    assert guest.read(Register.INTERRUPT_STATUS) & Interrupt.CONFIGURATION
    # Then it is dead, whatever anybody does.
    guest.peer.receive_all()
    guest.peer.send(noise(60))
    deliver(guest)
    for queue in range(3):
        guest.write(Register.QUEUE_NOTIFY, queue)
    assert guest.device.failures == 1
    assert guest.peer.receive_all() == []

    guest.reboot()

    assert guest.send(noise(99))
    assert guest.peer.receive_all() == [noise(99)]
    assert noise(60) in guest.settle()


class TestReset:
    def test_in_mid_transfer_forgets_what_was_under_way(
        self, guests: Callable[..., NetworkGuest]
    ) -> None:
        guest = guests(NetworkSetup(buffers=2))
        fill_socket(guest)
        guest.peer.send(noise(10_000))
        deliver(guest)  # the frame waits for buffers

        guest.write(Register.STATUS, 0)
        guest.peer.receive_all()
        deliver(guest)
        guest.reboot()
        guest.send(noise(60))
        guest.peer.send(noise(100))
        deliver(guest)

        assert guest.peer.receive_all() == [noise(60)]
        assert guest.settle() == [noise(100)]

    def test_lets_go_of_memory(self, guest: NetworkGuest) -> None:
        memory = GuestMemory([(RAM_START, 8 << 20)])
        guest.memory.view = memory.view  # type: ignore[method-assign]
        guest.memory.ram = memory.view(RAM_START, 8 << 20)  # type: ignore[assignment]
        guest.reboot()
        guest.send(noise(60))
        guest.peer.send(noise(60))
        deliver(guest)
        del guest.memory.ram

        guest.device.reset()

        memory.close()

    def test_queues_that_were_never_set_up_are_ignored(self, guest: NetworkGuest) -> None:
        guest.negotiate()
        guest.add_status(Status.DRIVER_OK)
        guest.peer.send(noise(60))
        for queue in (*range(4), 0xFFFF_FFFF):
            guest.write(Register.QUEUE_NOTIFY, queue)
        deliver(guest)
        assert not guest.device.failures


def clone(guest: NetworkGuest) -> NetworkGuest:
    """The same guest on a device with the other's state, and a peer of its own."""
    old = guest.device, guest.peer
    guest.peer = type(guest.peer)()
    guest.device = VirtioNet(guest.memory, guest.pulse, guest.peer.device_end.fileno())
    guest.device.restore(old[0].save_state())
    for ring in guest.rings:
        ring.device = guest.device
    old[0].reset()
    old[1].close()
    return guest


class TestState:
    def test_clone_sends_what_the_guest_had_left_to_be_sent(self, guest: NetworkGuest) -> None:
        number = fill_socket(guest)
        guest.send(noise(60))
        before = guest.device.save_state()

        clone(guest)
        assert guest.device.save_state() == before
        deliver(guest)

        assert guest.peer.receive_all() == [noise(50_000, number - 1), noise(60)]
        assert guest.interrupts  # the guest may wait for the buffers of frames of the past

    def test_clone_goes_on_in_both_directions(self, guest: NetworkGuest) -> None:
        for number in range(300):
            guest.send(noise(1514, number))
            guest.peer.send(noise(20_000, number))
            if number % 20 == 7:
                clone(guest)
                guest.peer.send(noise(20_000, number))
                guest.send(noise(1514, number))
            deliver(guest)
            assert guest.peer.receive_all()[-1] == noise(1514, number)
            assert guest.settle() == [noise(20_000, number)]

    def test_frame_that_waits_is_no_part_of_it(self, guests: Callable[..., NetworkGuest]) -> None:
        guest = guests(NetworkSetup(buffers=1))
        guest.peer.send(noise(10_000))
        deliver(guest)

        clone(guest)
        guest.buffer_slots += [guest.memory.allocate(4096) for _ in range(5)]
        guest.refill()
        guest.peer.send(noise(60))
        deliver(guest)

        assert guest.settle() == [noise(60)]
