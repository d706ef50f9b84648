"""A virtio console with one port that is a byte stream (VIRTIO 1.1, section 5.3).

Linux's virtio_console makes of it /dev/vport0p1, whose name in sysfs is "agent", as it does of
QEMU's virtio-serial-device with a virtserialport.

A guest that writes 32 KiB leaves once: its buffers go to the sink as views of guest memory, and it
finds them used when it looks. It is interrupted for that only now and then, since each time is two
more exits, and nobody waits for it but a writer whose queue is full.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct

from slipway.vmm.devices.virtio_mmio import VERSION_1, MmioState, VirtioMmio
from slipway.vmm.devices.virtqueue import DriverError, RingFeature
from slipway.vmm.memory import GuestAddressError
from slipway.vmm.record import field, record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.devices.model import Backend, Memory, Trigger
    from slipway.vmm.devices.virtqueue import Virtqueue


NAME = b"agent"
PORT = 1
# Port 0 is reserved for a console, which older drivers take it for; there is none here.
MAX_PORTS = 2
MULTIPORT = 1 << 1  # the feature of having ports other than 0 (5.3.3)
# struct virtio_console_config (5.3.4): cols, rows, max_nr_ports, emerg_wr
_CONFIG = Struct("<HHII")
# struct virtio_console_control (5.3.6.2): id, event, value
_CONTROL = Struct("<IHH")

# What one call may send: a guest's other processors can add chains as fast as they are sent, and a
# hostile one's can all name the same memory.
TRANSMIT_BUDGET = 2 << 20
BUFFER_COST = 2 << 10
# Linux waits for a message to be taken before it sends the next.
MESSAGES_A_TURN = 128

# Queues (5.3.2), control messages (5.3.6.2), and which of those the guest is still to be sent, in
# this order: flags and no queue, since it may ask and never listen.
Queue = IntEnum(
    "Queue", "RECEIVE_0 TRANSMIT_0 CONTROL_RECEIVE CONTROL_TRANSMIT RECEIVE TRANSMIT", start=0
)
Event = IntEnum(
    "Event", {"DEVICE_READY": 0, "PORT_ADD": 1, "PORT_READY": 3, "PORT_OPEN": 6, "PORT_NAME": 7}
)
Pending = IntFlag("Pending", "ADD NAME OPEN")

# As numbers: to compare with members of an enum would cost more.
_RECEIVE, _TRANSMIT = int(Queue.RECEIVE), int(Queue.TRANSMIT)


@record
class ConsoleState:
    """All of a console that is not in guest memory; at first as after a reset."""

    transport: MmioState = field(default_factory=MmioState)
    ready: bool = False  # the guest's driver has the port
    opened: bool = False  # a program in the guest has it open
    starved: bool = False  # the host has bytes that the guest has no buffers for
    pending: int = 0
    sent: int = 0  # what the sink has taken of the transmit queue's next chain


class VirtioConsole(VirtioMmio):
    """The device. One call ends before the next begins."""

    DEVICE_ID = 3
    FEATURES = VERSION_1 | RingFeature.EVENT_IDX | RingFeature.INDIRECT_DESC | MULTIPORT
    REQUIRED = VERSION_1 | MULTIPORT
    # QEMU's: 512 KiB to the guest in its buffers of 4 KiB, and 4 MiB from it in those of 32.
    QUEUE_SIZES = (128, 128, 32, 32, 128, 128)
    CONFIGURATION = _CONFIG.pack(0, 0, MAX_PORTS, 0)

    def __init__(self, memory: Memory, trigger: Trigger, sink: Backend) -> None:
        super().__init__(memory, trigger)
        self._sink = sink
        self._state = ConsoleState()

    def reset(self) -> None:
        """See :meth:`VirtioMmio.reset`."""
        super().reset()
        self._state = ConsoleState()

    @property
    def opened(self) -> bool:
        """Whether the guest has the port open."""
        return self._state.opened and self.running

    def receive(self, data: bytes | memoryview) -> int:
        """Give the guest as many bytes as fit and return their number; see ``Backend.can_receive``.

        The work is bounded by the length of ``data``.
        """
        if not self.opened:
            return 0
        try:
            return self._fill(memoryview(data))
        except (DriverError, GuestAddressError) as error:
            self.fail(str(error))
            return 0

    def drain(self) -> None:
        """The sink can take more."""
        self.notify(_TRANSMIT)
        if self.running:
            self.tell(self.queues[_TRANSMIT])  # it may have looked before, and waits now

    def serve(self, queue: int) -> None:
        """See :meth:`VirtioMmio.serve`."""
        if queue == _TRANSMIT:
            self._transmit()
        elif queue == _RECEIVE:
            if self._state.starved:
                self._state.starved = False
                self._sink.can_receive()
        elif queue == Queue.CONTROL_TRANSMIT:
            self._listen()
        elif queue == Queue.CONTROL_RECEIVE:
            self._inform()

    def save_state(self) -> ConsoleState:
        """A copy of the state as it is."""
        return replace(self._state, transport=self.save_transport())

    def restore(self, state: ConsoleState) -> None:
        """Become what ``state`` says; guest memory has its content already. Then ``drain``.

        Raises:
            DriverError, GuestAddressError: that was a console of another machine.
        """
        self.restore_transport(state.transport)
        self._state = replace(state, transport=MmioState())

    def _transmit(self) -> None:
        queue = self.queues[_TRANSMIT]
        done = self._send(queue)
        queue.publish()
        if not done:
            self.postpone(_TRANSMIT)

    def _send(self, queue: Virtqueue) -> bool:
        """Send what there is and the sink takes; False if that is too much for one call."""
        state = self._state
        send = self._sink.send
        batch = queue.size >> 3 or 1
        budget = TRANSMIT_BUDGET
        while True:
            chain = queue.peek(False)
            if chain is None:
                if queue.await_more():
                    continue
                return True
            skip = state.sent
            for buffer in chain:
                if skip >= len(buffer):
                    skip -= len(buffer)
                    continue
                rest = buffer[skip:] if skip else buffer
                skip = 0
                while budget > 0:
                    taken = send(rest)
                    if not taken:
                        return True
                    state.sent += taken
                    budget -= taken + BUFFER_COST
                    if taken >= len(rest):
                        break
                    rest = rest[taken:]
                else:
                    return False
            state.sent = 0
            if queue.push(0) >= batch:
                self.tell(queue)

    def _fill(self, data: memoryview) -> int:
        queue = self.queues[_RECEIVE]
        self._state.starved = False
        total = len(data)
        taken = 0
        while taken < total:
            chain = queue.peek(True)
            if chain is None:
                # All the buffers that the driver ever gave are with the guest, and each comes back
                # when it has been read. Half of them at a time are worth an exit.
                if queue.await_more(queue.depth >> 1 or 1):
                    continue
                self._state.starved = True
                break
            written = _scatter(data[taken:], chain)
            taken += written
            queue.push(written)
        self.tell(queue)
        return taken

    def _listen(self) -> None:
        """Act on the guest's control messages."""
        was_open = self._state.opened
        queue = self.queues[Queue.CONTROL_TRANSMIT]
        for _ in range(MESSAGES_A_TURN):
            chain = queue.peek(False)
            if chain is None:
                if queue.await_more():
                    continue
                break
            message = _gather(chain, _CONTROL.size)
            queue.push(0)
            if len(message) == _CONTROL.size:  # what is shorter QEMU, too, drops
                self._handle(*_CONTROL.unpack(message))
        else:
            self.postpone(Queue.CONTROL_TRANSMIT)
        self.tell(queue)
        self._inform()
        if self._state.opened and not was_open:
            self._sink.can_receive()  # at the very end, since it may receive

    def _handle(self, port: int, event: int, value: int) -> None:
        state = self._state
        if event == Event.DEVICE_READY and value:
            state.pending |= int(Pending.ADD)
        elif port != PORT:
            return
        elif event == Event.PORT_READY:
            state.ready = bool(value)
            if value:
                state.pending |= int(Pending.NAME | Pending.OPEN)
        elif event == Event.PORT_OPEN:
            state.opened = bool(value)

    def _inform(self) -> None:
        """Send the guest those control messages that it has buffers for."""
        state = self._state
        queue = self.queues[Queue.CONTROL_RECEIVE]
        while state.pending:
            chain = queue.peek(True)
            if chain is None:
                if queue.await_more():
                    continue
                break
            if state.pending & Pending.ADD:
                sent, message = Pending.ADD, _CONTROL.pack(PORT, Event.PORT_ADD, 1)
            elif state.pending & Pending.NAME:
                # The NUL is QEMU's. Linux ends the name there, or without one after the message.
                sent, message = Pending.NAME, _CONTROL.pack(PORT, Event.PORT_NAME, 1) + NAME + b"\0"
            else:
                sent, message = Pending.OPEN, _CONTROL.pack(PORT, Event.PORT_OPEN, 1)
            written = _scatter(memoryview(message), chain)
            if written < len(message):
                raise DriverError(f"{written} bytes for a control message")
            queue.push(written)
            state.pending &= ~int(sent)
        self.tell(queue)


def _scatter(data: memoryview, chain: list[memoryview]) -> int:
    """Write from the front of ``data`` into the chain's buffers; how much."""
    written = 0
    for buffer in chain:
        piece = data[written : written + len(buffer)]
        buffer[: len(piece)] = piece
        written += len(piece)
    return written


def _gather(chain: list[memoryview], size: int) -> bytes:
    """The first ``size`` bytes of the chain's buffers, or what there is."""
    data = b""
    for buffer in chain:
        data += buffer[: size - len(data)]
    return data
