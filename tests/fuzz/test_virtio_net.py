"""The network device against a guest that does anything, and one that does as Linux does."""

from __future__ import annotations

import time
from collections import deque
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from fuzz.hostile_driver import act_on_device, build_acts
from slipway.vmm.devices.virtio_net import ETHERNET_HEADER, MAX_FRAME, Queue, VirtioNet
from support.network_driver import LinkPeer, NetworkGuest, NetworkSetup

SMALL = NetworkSetup(queue_size=4, buffer_size=64, memory=1 << 20)
queues = st.sampled_from(list(Queue)).map(int)
# Whole frames, and some that no Ethernet has.
lengths = st.integers(ETHERNET_HEADER, 300) | st.integers(1, 70_000)


acts = build_acts(
    queues,
    ("send", "send", "take", "edge", "edge", "state", "boot"),
    {"send": lengths, "edge": st.booleans()},
)


class Hostile:
    """A guest whose driver may be set up as it should be, and then does as it is told."""

    def __init__(self) -> None:
        self.guest = NetworkGuest(SMALL)
        self.device = self.guest.device
        self.guest.boot()
        self.rings = self.guest.rings

    def act(self, kind: str, arguments: tuple[int, ...]) -> None:
        match kind, arguments:
            case "send", (size,):
                try:
                    self.guest.peer.send(bytes(size))
                except BlockingIOError:
                    self.device.ready(readable=True)
            case "take", ():
                for frame in self.guest.peer.receive_all():
                    assert ETHERNET_HEADER <= len(frame) <= MAX_FRAME
            case "edge", (readable,):
                self.device.ready(readable=bool(readable))
            case "boot", ():
                self.guest.reboot()
                self.rings = self.guest.rings
            case "state", ():
                state = self.device.save_state()
                self.device.restore(state)
                assert self.device.save_state() == state
            case _:
                act_on_device((kind, arguments), self.device, self.guest.memory, self.rings)


@given(st.lists(acts, max_size=60))
def test_whatever_a_guest_does_is_survived(steps: list[tuple[str, tuple[int, ...]]]) -> None:
    hostile = Hostile()
    with closing(hostile.guest.peer) as peer:
        for kind, arguments in steps:
            began = time.process_time()
            hostile.act(kind, arguments)

            assert time.process_time() - began < 2
            assert len(repr(hostile.device.save_state())) + len(hostile.device.reason) < 3000
            if hostile.device.failures and not hostile.device.reason:
                raise AssertionError("it failed for no reason")

        # And then another kernel finds a device as good as new.
        peer.receive_all()
        hostile.guest.reboot()
        hostile.device.ready(readable=True)
        while hostile.guest.settle():
            hostile.device.ready(readable=True)
        peer.receive_all()
        assert hostile.guest.send(b"hello" * 10)
        assert peer.receive_all() == [b"hello" * 10]
        peer.send(b"answer" * 30)
        hostile.device.ready(readable=True)
        assert hostile.guest.settle() == [b"answer" * 30]


setups = st.builds(
    NetworkSetup,
    queue_size=st.sampled_from([8, 16, 64, 256]),
    buffer_size=st.integers(60, 5000),
    buffers=st.integers(4, 256),
    event_idx=st.booleans(),
    indirect=st.booleans(),
    memory=st.just(1 << 21),
)
transfers = st.tuples(
    st.sampled_from(["send", "send", "answer", "answer", "interrupt", "edge", "take", "clone"]),
    st.integers(ETHERNET_HEADER, 200) | st.integers(ETHERNET_HEADER, 20_000),
    st.integers(1, 6),
)


class Transfer:
    """Frames on their way in both directions, at any pace."""

    def __init__(self, setup: NetworkSetup) -> None:
        self.guest = NetworkGuest(setup).boot()
        # The longest frame that fits into half of the buffers.
        self.room = min(setup.buffers, setup.queue_size) * setup.buffer_size // 2
        self.to_peer: deque[bytes] = deque()
        self.to_guest: deque[bytes] = deque()
        self.number = 0
        self.edge = False

    def act(self, kind: str, size: int, pieces: int) -> None:
        guest = self.guest
        self.number += 1
        frame = (self.number.to_bytes(4, "little") * (size // 4 + 1))[:size]
        match kind:
            case "send":
                # The guest's two places for frames would be used for a third otherwise.
                if len(self.to_peer) < 2 and guest.send(frame, pieces):
                    self.to_peer.append(frame)
            case "answer":
                if len(self.to_guest) < 8 and size + 12 <= self.room:
                    guest.peer.send(frame)
                    self.to_guest.append(frame)
                    self.edge = True
            case "interrupt":
                for received in guest.settle():
                    assert received == self.to_guest.popleft()
            case "edge":
                guest.device.ready(readable=self.edge)
                self.edge = False
            case "take":
                for received in guest.peer.receive_all():
                    assert received == self.to_peer.popleft()
            case "clone":
                self.clone()

    def clone(self) -> None:
        """Continue on another device, after all that was in the socket has arrived."""
        for kind in ("edge", "interrupt", "take", "edge", "interrupt"):
            self.act(kind, 0, 0)
        if self.to_guest:  # the frame that waits would be lost
            return
        guest, old, peer = self.guest, self.guest.device, self.guest.peer
        guest.peer = LinkPeer()
        guest.device = VirtioNet(guest.memory, guest.pulse, guest.peer.device_end.fileno())
        guest.device.restore(old.save_state())
        for ring in guest.rings:
            ring.device = guest.device
        guest.device.ready(readable=True)
        old.reset()
        peer.close()


@given(setup=setups, steps=st.lists(transfers, max_size=60))
def test_frames_arrive_whole_and_in_order_at_any_pace(
    setup: NetworkSetup, steps: list[tuple[str, int, int]]
) -> None:
    transfer = Transfer(setup)
    for step in steps:
        transfer.act(*step)

    # From here on, nothing but edges and interrupts: a frame that was left would be a standstill.
    for _ in range(20):
        for kind in ("edge", "interrupt", "take"):
            transfer.act(kind, 0, 0)
    transfer.guest.peer.close()
    assert not transfer.to_peer
    assert not transfer.to_guest
    assert not transfer.guest.device.failures
    assert not transfer.guest.device.dropped
