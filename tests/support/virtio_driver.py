"""A guest that drives a virtio console as Linux 6.1 does, in a few kilobytes of memory of its own.

After drivers/virtio/virtio_mmio.c, drivers/virtio/virtio_ring.c and drivers/char/virtio_console.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from slipway.vmm.devices.virtio_console import Event, Queue, VirtioConsole
from slipway.vmm.devices.virtio_mmio import Register, Status
from slipway.vmm.devices.virtqueue import DescriptorFlag, RingFeature
from slipway.vmm.memory import GuestAddressError

if TYPE_CHECKING:
    from slipway.vmm.devices.model import Device
    from slipway.vmm.devices.virtio_mmio import VirtioMmio

CONTROL = struct.Struct("<IHH")
NO_PORT = 0xFFFF_FFFF
MOST_PIECES = 16  # of a buffer; a pipe has as many pages
RAM_START = 0x1_0000_0000  # above 4 GiB, so that both halves of the address registers count


class FakeMemory:
    """RAM from RAM_START on, with an allocator for the driver."""

    def __init__(self, size: int) -> None:
        self.ram = bytearray(size)
        self.end = RAM_START + size
        self._view = memoryview(self.ram)
        self._free = RAM_START

    def view(self, address: int, length: int) -> memoryview:
        if not (RAM_START <= address <= address + length <= self.end):
            raise GuestAddressError(f"{length} bytes at {address:#x}")
        return self._view[address - RAM_START : address - RAM_START + length]

    def read(self, address: int, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self.ram, address - RAM_START)
        assert isinstance(value, int)
        return value

    def write(self, address: int, layout: str, *values: int) -> None:
        struct.pack_into(layout, self.ram, address - RAM_START, *values)

    def get(self, address: int, size: int) -> bytes:
        return bytes(self.view(address, size))

    def put(self, address: int, data: bytes) -> None:
        self.view(address, len(data))[:] = data

    def allocate(self, size: int, alignment: int = 16) -> int:
        address = -(-self._free // alignment) * alignment
        self._free = address + size
        assert self._free <= self.end, "the test's memory is too small"
        self.put(address, bytes(size))
        return address

    def free_all(self) -> None:
        self._free = RAM_START


class ScriptedBackend:
    """Backend of the port: takes ``credit`` bytes, at most ``piece`` at once."""

    def __init__(self, credit: int | None = None, piece: int | None = None) -> None:
        self.taken = bytearray()
        self.credit = credit
        self.piece = piece
        self.offers: list[int] = []
        self.rooms = 0

    def send(self, data: bytes | memoryview, /) -> int:
        self.offers.append(len(data))
        count = len(data) if self.credit is None else min(len(data), self.credit)
        if self.piece is not None:
            count = min(count, self.piece)
        self.taken += data[:count]
        if self.credit is not None:
            self.credit -= count
        return count

    def can_receive(self) -> None:
        self.rooms += 1


class Vring:
    """The driver's side of one virtqueue."""

    def __init__(self, memory: FakeMemory, device: Device, index: int, size: int) -> None:
        self.memory = memory
        self.device = device
        self.index = index
        self.size = size
        self.descriptors = memory.allocate(16 * size)
        self.available = memory.allocate(6 + 2 * size, 2)
        self.used = memory.allocate(6 + 8 * size, 4)
        self.event_idx = self.indirect = True
        self.callback = True  # else the driver never wants an interrupt
        self.free = list(range(size))[::-1]
        self.next_available = self.last_used = self.kicked = 0
        self.tokens: dict[int, tuple[int, list[int]]] = {}
        self.tables: dict[int, int] = {}
        self.kicks = 0

    def add(self, pieces: list[tuple[int, int]], *, writable: bool, token: int = 0) -> int:
        """Make a chain of (address, length) available; its head."""
        flags = DescriptorFlag.WRITE if writable else 0
        if self.indirect and len(pieces) > 1:
            indices = [self.free.pop()]
            table = self.tables.get(indices[0])
            if table is None:
                assert len(pieces) <= MOST_PIECES
                table = self.tables[indices[0]] = self.memory.allocate(16 * MOST_PIECES)
            self._write_chain(table, list(range(len(pieces))), pieces, flags)
            self.describe(indices[0], table, 16 * len(pieces), DescriptorFlag.INDIRECT)
        else:
            indices = [self.free.pop() for _ in pieces]
            self._write_chain(self.descriptors, indices, pieces, flags)
        self.tokens[indices[0]] = token, indices
        self.offer(indices[0])
        return indices[0]

    def _write_chain(
        self, table: int, indices: list[int], pieces: list[tuple[int, int]], flags: int
    ) -> None:
        for index, following, piece in zip(indices, [*indices[1:], None], pieces, strict=True):
            more = 0 if following is None else DescriptorFlag.NEXT
            self.memory.write(
                table + 16 * index, "<QIHH", *piece, flags | more, following if following else 0
            )

    def describe(
        self, index: int, address: int, length: int, flags: int, following: int = 0
    ) -> None:
        at = self.descriptors + 16 * index
        self.memory.write(at, "<QIHH", address, length, flags, following)

    def offer(self, head: int) -> None:
        at = self.available + 4 + 2 * (self.next_available % self.size)
        self.memory.write(at, "<H", head)
        self.next_available = (self.next_available + 1) & 0xFFFF
        self.memory.write(self.available + 2, "<H", self.next_available)

    def kick(self) -> None:
        """Notify the device if it wants that: virtqueue_kick."""
        old, self.kicked = self.kicked, self.next_available
        if self.event_idx:
            event = self.memory.read(self.used + 4 + 8 * self.size, "<H")
            wanted = (self.kicked - event - 1) & 0xFFFF < (self.kicked - old) & 0xFFFF
        else:
            wanted = not self.memory.read(self.used, "<H") & 1
        if wanted:
            self.kicks += 1
            self.device.write(Register.QUEUE_NOTIFY, 4, self.index)

    @property
    def has_used(self) -> bool:
        return self.last_used != self.memory.read(self.used + 2, "<H")

    def get(self) -> tuple[int, int] | None:
        """The next used chain's token and length: virtqueue_get_buf."""
        if not self.has_used:
            return None
        at = self.used + 4 + 8 * (self.last_used % self.size)
        head, length = self.memory.read(at, "<I"), self.memory.read(at + 4, "<I")
        token, indices = self.tokens.pop(head)
        self.free += indices
        self.last_used = (self.last_used + 1) & 0xFFFF
        if self.event_idx and self.callback:
            self.memory.write(self.available + 4 + 2 * self.size, "<H", self.last_used)
        return token, length

    def jump(self, index: int) -> None:
        """Go on from ``index``, and the rings with it; only while nothing is in them."""
        assert not self.tokens
        self.next_available = self.last_used = self.kicked = index
        self.memory.write(self.available + 2, "<H", index)
        self.memory.write(self.available + 4 + 2 * self.size, "<H", index)
        self.memory.write(self.used + 2, "<H", index)
        self.memory.write(self.used + 4 + 8 * self.size, "<H", index)


@dataclass
class Setup:
    """Choices of a guest among the offers of the device."""

    queue_size: int = 128
    buffer_size: int = 4096
    write_size: int = 32 * 1024
    event_idx: bool = True
    indirect: bool = True
    memory: int = 8 << 20


@dataclass
class Message:
    """A control message that came from the device."""

    port: int
    event: Event
    value: int
    rest: bytes = b""


class MmioSetup(Protocol):
    """Choices of any guest among the offers of a device."""

    queue_size: int
    event_idx: bool
    indirect: bool


class MmioGuest:
    """The part of a driver that is the same for all devices: virtio_mmio."""

    DEVICE_ID: int
    device: VirtioMmio
    setup: MmioSetup

    def __init__(self, memory: FakeMemory) -> None:
        self.memory = memory
        self.interrupts = 0
        self.unhandled = 0

    def pulse(self) -> None:
        self.interrupts += 1

    def read(self, register: int) -> int:
        return self.device.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.device.write(register, 4, value)

    @property
    def status(self) -> int:
        return self.read(Register.STATUS)

    def add_status(self, bit: int) -> None:
        self.write(Register.STATUS, self.status | bit)

    def negotiate(self, without: int = 0) -> None:
        assert self.read(Register.MAGIC_VALUE) == 0x74726976
        assert self.read(Register.VERSION) == 2
        assert self.read(Register.DEVICE_ID) == self.DEVICE_ID
        self.write(Register.STATUS, 0)
        self.add_status(Status.ACKNOWLEDGE)
        self.add_status(Status.DRIVER)
        offered = 0
        for half in (1, 0):
            self.write(Register.DEVICE_FEATURES_SEL, half)
            offered |= self.read(Register.DEVICE_FEATURES) << 32 * half
        if not self.setup.event_idx:
            without |= int(RingFeature.EVENT_IDX)
        if not self.setup.indirect:
            without |= int(RingFeature.INDIRECT_DESC)
        self.accept(offered & ~without)

    def accept(self, features: int) -> None:
        for half in (1, 0):
            self.write(Register.DRIVER_FEATURES_SEL, half)
            self.write(Register.DRIVER_FEATURES, features >> 32 * half & 0xFFFF_FFFF)
        self.add_status(Status.FEATURES_OK)

    def find_queue(self, index: int) -> Vring:
        self.write(Register.QUEUE_SEL, index)
        assert self.read(Register.QUEUE_READY) == 0
        size = min(self.read(Register.QUEUE_NUM_MAX), self.setup.queue_size)
        vring = Vring(self.memory, self.device, index, size)
        vring.event_idx = self.setup.event_idx
        vring.indirect = self.setup.indirect
        self.write(Register.QUEUE_NUM, size)
        for register, address in (
            (Register.QUEUE_DESC, vring.descriptors),
            (Register.QUEUE_DRIVER, vring.available),
            (Register.QUEUE_DEVICE, vring.used),
        ):
            self.write(register, address & 0xFFFF_FFFF)
            self.write(register + 4, address >> 32)
        self.write(Register.QUEUE_READY, 1)
        return vring


class Guest(MmioGuest):
    """The console's driver, and a program that has or has not opened the port."""

    DEVICE_ID = 3
    device: VirtioConsole
    setup: Setup

    def __init__(self, setup: Setup | None = None, line: ScriptedBackend | None = None) -> None:
        self.setup = setup or Setup()
        super().__init__(FakeMemory(self.setup.memory))
        self.line = line or ScriptedBackend()
        self.device = VirtioConsole(self.memory, self.pulse, self.line)
        self.start()

    def start(self) -> None:
        self.interrupts = 0
        self.unhandled = 0
        self.messages: list[Message] = []
        self.name: str | None = None
        self.has_port = False
        self.host_connected = False
        self.is_open = False
        self.inbuf: tuple[int, int, int] | None = None  # address, length, position
        # Whether a program would sleep in poll(2), to be woken by an interrupt.
        self.read_sleeps = self.write_sleeps = False

    def interrupt(self) -> None:
        """The handler, once for the pulses so far, however many: vm_interrupt."""
        self.interrupts = 0
        status = self.read(Register.INTERRUPT_STATUS)
        self.write(Register.INTERRUPT_ACK, status)
        if status & 1:
            self._control()
            if self.rings[Queue.RECEIVE].has_used:
                self.read_sleeps = False
                self._receive()
            if self.rings[Queue.TRANSMIT].has_used:
                self.write_sleeps = False
        self.unhandled += not status

    def settle(self) -> None:
        """Handle interrupts until there is none."""
        while self.interrupts:
            self.interrupt()

    # virtio_console

    def probe(self) -> None:
        self.negotiate()
        config = Register.CONFIG
        assert self.device.read(config + 4, 4) == 2  # max_nr_ports
        self.rings = [self.find_queue(index) for index in Queue]
        self.rings[Queue.CONTROL_TRANSMIT].callback = False
        # Linux has room for as many: the buffers of a queue that is full.
        writer = self.rings[Queue.TRANSMIT]
        slots = [self.memory.allocate(self.setup.write_size) for _ in range(writer.size)]
        self.write_slots = slots
        self.control_slot = self.memory.allocate(CONTROL.size)
        self.add_status(Status.DRIVER_OK)
        self.fill_queue(Queue.CONTROL_RECEIVE, 64)
        self.send_control(NO_PORT, Event.DEVICE_READY, 1)

    def boot(self) -> Guest:
        """Probe, and open the port."""
        self.probe()
        self.settle()
        self.open()
        self.settle()
        return self

    def reboot(self) -> Guest:
        """Another kernel takes over, whatever state the device is in."""
        self.memory.free_all()
        self.start()
        return self.boot()

    def send_control(self, port: int, event: int, value: int) -> None:
        vring = self.rings[Queue.CONTROL_TRANSMIT]
        self.memory.put(self.control_slot, CONTROL.pack(port, event, value))
        vring.add([(self.control_slot, CONTROL.size)], writable=False)
        vring.kick()
        if self.device.running:  # Linux spins until the message has been taken
            assert vring.get() == (0, 0)

    def fill_queue(self, index: int, size: int) -> None:
        vring = self.rings[index]
        while vring.free:
            address = self.memory.allocate(size)
            vring.add([(address, size)], writable=True, token=address)
            vring.kick()

    def _control(self) -> None:
        vring = self.rings[Queue.CONTROL_RECEIVE]
        while (buffer := vring.get()) is not None:
            address, length = buffer
            data = self.memory.get(address, length)
            port, event, value = CONTROL.unpack_from(data)
            message = Message(port, Event(event), value, data[CONTROL.size :])
            self.messages.append(message)
            self._act(message)
            vring.add([(address, 64)], writable=True, token=address)
            vring.kick()

    def _act(self, message: Message) -> None:
        if message.event == Event.PORT_ADD:
            if not self.has_port:
                self.fill_queue(Queue.RECEIVE, self.setup.buffer_size)
                self.has_port = True
            self.send_control(message.port, Event.PORT_READY, 1)
        elif message.event == Event.PORT_NAME:
            self.name = message.rest.split(b"\0")[0].decode()
        elif message.event == Event.PORT_OPEN:
            self.host_connected = bool(message.value)

    def _receive(self) -> None:
        """Take the next buffer, if it has none: in_intr and get_inbuf."""
        while self.inbuf is None and (buffer := self.rings[Queue.RECEIVE].get()) is not None:
            self.inbuf = (*buffer, 0)
            if not self.is_open:
                self._return_buffer()

    def _return_buffer(self) -> None:
        assert self.inbuf is not None
        address, *_ = self.inbuf
        self.inbuf = None
        vring = self.rings[Queue.RECEIVE]
        vring.add([(address, self.setup.buffer_size)], writable=True, token=address)
        vring.kick()

    # the program

    def open(self) -> None:
        self.is_open = True
        self.send_control(1, Event.PORT_OPEN, 1)

    def close(self) -> None:
        self.is_open = False
        self.send_control(1, Event.PORT_OPEN, 0)
        if self.inbuf is not None:
            self._return_buffer()
        self._receive()

    def write_port(self, data: bytes, pieces: int = 1) -> int:
        """write(2), non-blocking; how much was taken. ``pieces``: as splice(2) would send it."""
        vring = self.rings[Queue.TRANSMIT]
        while (buffer := vring.get()) is not None:
            self.write_slots.append(buffer[0])
        if len(vring.free) < (1 if self.setup.indirect else pieces):
            self.write_sleeps = True
            return 0
        data = data[: self.setup.write_size]
        address = self.write_slots.pop()
        self.memory.put(address, data)
        bounds = [len(data) * part // pieces for part in range(pieces + 1)]
        parts = [(address + a, b - a) for a, b in pairwise(bounds) if b > a]
        vring.add(parts, writable=False, token=address)
        vring.kick()
        return len(data)

    def read_port(self, size: int = 1 << 20) -> bytes:
        """read(2), non-blocking: at most what is left of one buffer."""
        self._receive()
        if self.inbuf is None:
            self.read_sleeps = True
            return b""
        address, length, position = self.inbuf
        data = self.memory.get(address, length)[position : position + size]
        if position + len(data) == length:
            self._return_buffer()
        else:
            self.inbuf = address, length, position + len(data)
        return data

    def read_all(self) -> bytes:
        parts = []
        while data := self.read_port():
            parts.append(data)
        return b"".join(parts)


@dataclass
class DriverHost:
    """The host's side, which holds back what the guest has no buffers for."""

    device: VirtioConsole
    backlog: bytearray = field(default_factory=bytearray)

    def send(self, data: bytes) -> None:
        self.backlog += data
        self.go_on()

    def go_on(self) -> None:
        while self.backlog:
            taken = self.device.receive(bytes(self.backlog))
            del self.backlog[:taken]
            if self.backlog:
                return
