"""A guest that drives a virtio network device as Linux 6.1 does, and the peer of its socket.

After drivers/net/virtio_net.c.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from itertools import pairwise

from slipway.vmm.devices.virtio_mmio import Register, Status
from slipway.vmm.devices.virtio_net import Queue, VirtioNet
from support.virtio_driver import FakeMemory, MmioGuest

HEADER = struct.Struct("<BBHHHHH")
DATA_VALID = 2
HEAD_SIZE = 64  # bytes of a frame behind its header, in memory of its own


@dataclass
class NetworkSetup:
    """Choices of a guest among the offers of the device."""

    queue_size: int = 256
    buffer_size: int = 4096
    buffers: int = 256  # of the receive queue
    event_idx: bool = True
    indirect: bool = True
    memory: int = 8 << 20


class LinkPeer:
    """The other end of a device's socket."""

    def __init__(self) -> None:
        self.socket, self.device_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)

    def receive(self) -> bytes | None:
        """The next frame of the guest's; None if there is none."""
        try:
            return self.socket.recv(1 << 17)
        except BlockingIOError:
            return None

    def receive_all(self) -> list[bytes]:
        """All frames of the guest's that have come."""
        frames = []
        while frame := self.receive():
            frames.append(frame)
        return frames

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def close(self) -> None:
        self.socket.close()
        self.device_end.close()


class NetworkGuest(MmioGuest):
    """The driver of a network device."""

    DEVICE_ID = 1
    device: VirtioNet
    setup: NetworkSetup

    def __init__(self, setup: NetworkSetup | None = None) -> None:
        self.peer = LinkPeer()
        self.setup = setup or NetworkSetup()
        super().__init__(FakeMemory(self.setup.memory))
        self.device = VirtioNet(self.memory, self.pulse, self.peer.device_end.fileno())

    def boot(self) -> NetworkGuest:
        """Probe, and bring the interface up."""
        self.frames: list[bytes] = []
        self.negotiate()
        self.rings = [self.find_queue(index) for index in Queue]
        self.add_status(Status.DRIVER_OK)
        self.free_slots = [
            self.memory.allocate(HEADER.size + HEAD_SIZE) for _ in range(self.rings[1].size)
        ]
        self.buffer_slots = [
            self.memory.allocate(self.setup.buffer_size, 1)
            for _ in range(min(self.setup.buffers, self.rings[0].size))
        ]
        self.data, self.other_data = (self.memory.allocate(1 << 17) for _ in range(2))
        self.refill()
        return self

    def reboot(self) -> NetworkGuest:
        """Another kernel takes over, whatever state the device is in."""
        self.memory.free_all()
        self.interrupts = self.unhandled = 0
        return self.boot()

    def refill(self) -> None:
        """Give the device all buffers that it has not: try_fill_recv."""
        ring = self.rings[Queue.RECEIVE]
        if not self.buffer_slots:
            return
        while self.buffer_slots:
            slot = self.buffer_slots.pop()
            ring.add([(slot, self.setup.buffer_size)], writable=True, token=slot)
        ring.kick()

    def send(self, frame: bytes, pieces: int = 1, header: int = 12) -> bool:
        """Send a frame: ``header`` bytes of a header, then its head, and the rest in ``pieces``.

        Return False if the queue is full. The rest of every other frame has the same memory.
        """
        ring = self.rings[Queue.TRANSMIT]
        while (used := ring.get()) is not None:
            self.free_slots.append(used[0])
        if len(ring.free) < (1 if ring.indirect else pieces + 2):
            return False
        slot = self.free_slots.pop()
        self.data, self.other_data = self.other_data, self.data
        head, rest = frame[:HEAD_SIZE], frame[HEAD_SIZE:]
        self.memory.put(slot + HEADER.size, head)
        self.memory.put(self.data, rest)
        bounds = [len(rest) * part // pieces for part in range(pieces + 1)]
        parts = [(self.data + a, b - a) for a, b in pairwise(bounds) if b > a]
        if head:
            parts.insert(0, (slot + HEADER.size, len(head)))
        ring.add([(slot, header), *parts], writable=False, token=slot)
        ring.kick()
        return True

    def interrupt(self) -> None:
        """The handler, once for the pulses so far, however many: vm_interrupt and virtnet_poll."""
        self.interrupts = 0
        status = self.read(Register.INTERRUPT_STATUS)
        self.write(Register.INTERRUPT_ACK, status)
        if status & 1:
            while (frame := self._receive()) is not None:
                self.frames.append(frame)
            self.refill()
        self.unhandled += not status

    def settle(self) -> list[bytes]:
        """Handle interrupts until there is none; the frames that came so far."""
        while self.interrupts:
            self.interrupt()
        frames, self.frames = self.frames, []
        return frames

    def _receive(self) -> bytes | None:
        """The next frame, of as many buffers as its header says: receive_mergeable."""
        ring = self.rings[Queue.RECEIVE]
        data = b""
        number = 1
        while number:
            used = ring.get()
            if used is None:
                assert not data, "a frame lacks buffers"
                return None
            slot, length = used
            self.buffer_slots.append(slot)
            if not data:
                number = HEADER.unpack(self.memory.get(slot, HEADER.size))[-1]
                assert number > 0
            data += self.memory.get(slot, length)
            number -= 1
        self.header = data[: HEADER.size]
        return data[HEADER.size :]
