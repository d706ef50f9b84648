"""Virtio console with one port, a byte stream (VIRTIO 1.1, section 5.3).

Linux's virtio_console makes it /dev/vport0p1, with the name "agent" in sysfs, as for QEMU's
virtio-serial-device with a virtserialport.

A guest that writes 32 KiB exits once: its buffers go to the backend as views of guest memory, and
are used when the guest looks again. Interrupts for that are rare, since each is two more exits, and
only a writer with a full queue waits for one.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct

from slipway.vmm.devices.buffers import BUDGET, BUFFER_COST, scatter
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
# Port 0 is reserved for a console, as which older drivers use it; this device has none.
MAX_PORTS = 2
MULTIPORT = 1 << 1  # the feature of having ports other than 0 (5.3.3)
# struct virtio_console_config (5.3.4): cols, rows, max_nr_ports, emerg_wr
_CONFIG = Struct("<HHII")
# struct virtio_console_control (5.3.6.2): id, event, value
_CONTROL = Struct("<IHH")

# Linux sends the next message after the last is taken.
MESSAGES_A_TURN = 128

# Queues (5.3.2), control messages (5.3.6.2), and the messages that the guest still has to get, in
# this order: flags instead of a queue, since a guest may request messages and never read them.
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
    """Complete state of a console outside of guest memory; the defaults are those of a reset."""

    transport: MmioState = field(default_factory=MmioState)
    ready: bool = False  # the guest's driver has the port
    opened: bool = False  # a program in the guest has it open
    starved: bool = False  # the host has bytes that the guest has no buffers for
    pending: int = 0
    sent: int = 0  # bytes of the transmit queue's next chain that the backend has taken


class VirtioConsole(VirtioMmio):
    """Virtio console; one call ends before the next begins."""

    DEVICE_ID = 3
    FEATURES = VERSION_1 | RingFeature.EVENT_IDX | RingFeature.INDIRECT_DESC | MULTIPORT
    REQUIRED = VERSION_1 | MULTIPORT
    # QEMU's: 512 KiB to the guest in its buffers of 4 KiB, and 4 MiB from it in those of 32.
    QUEUE_SIZES = (128, 128, 32, 32, 128, 128)
    CONFIGURATION = _CONFIG.pack(0, 0, MAX_PORTS, 0)

    def __init__(self, memory: Memory, trigger: Trigger, backend: Backend) -> None:
        super().__init__(memory, trigger)
        self._backend = backend
        self._state = ConsoleState()

    def reset(self) -> None:
        """Reset transport and port; see :meth:`VirtioMmio.reset`."""
        super().reset()
        self._state = ConsoleState()

    @property
    def opened(self) -> bool:
        """True if a program of the guest has the port open."""
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
        """Continue to send: the backend can take more."""
        self.notify(_TRANSMIT)
        if self.running:
            self.notify_driver(self.queues[_TRANSMIT])  # the driver may wait for it

    def serve(self, queue: int) -> None:
        """Serve a queue; see :meth:`VirtioMmio.serve`."""
        if queue == _TRANSMIT:
            self._transmit()
        elif queue == _RECEIVE:
            if self._state.starved:
                self._state.starved = False
                self._backend.can_receive()
        elif queue == Queue.CONTROL_TRANSMIT:
            self._listen()
        elif queue == Queue.CONTROL_RECEIVE:
            self._inform()

    def save_state(self) -> ConsoleState:
        """Return a copy of the state."""
        return replace(self._state, transport=self.save_transport())

    def restore(self, state: ConsoleState) -> None:
        """Restore ``state``, after the guest memory; call ``drain`` next.

        Raises:
            DriverError: the state is of another machine.
            GuestAddressError: the state is of another machine.
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
        """Send until queue or backend is exhausted; return False after too much for one call."""
        state = self._state
        send = self._backend.send
        batch = queue.size >> 3 or 1
        budget = BUDGET
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
                self.notify_driver(queue)

    def _fill(self, data: memoryview) -> int:
        queue = self.queues[_RECEIVE]
        self._state.starved = False
        total = len(data)
        taken = 0
        while taken < total:
            chain = queue.peek(True)
            if chain is None:
                # All buffers are with the guest, and each comes back after it was read. An exit is
                # worth it for half of them at a time.
                if queue.await_more(queue.depth >> 1 or 1):
                    continue
                self._state.starved = True
                break
            written = scatter(data[taken:], chain)
            taken += written
            queue.push(written)
        self.notify_driver(queue)
        return taken

    def _listen(self) -> None:
        """Handle the guest's control messages."""
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
            if len(message) == _CONTROL.size:  # QEMU drops shorter messages as well
                self._handle(*_CONTROL.unpack(message))
        else:
            self.postpone(Queue.CONTROL_TRANSMIT)
        self.notify_driver(queue)
        self._inform()
        if self._state.opened and not was_open:
            self._backend.can_receive()  # last, since the backend may call receive

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
        """Send the pending control messages for which the guest has buffers."""
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
                # With QEMU's NUL; Linux ends the name there, or at the end of the message.
                sent, message = Pending.NAME, _CONTROL.pack(PORT, Event.PORT_NAME, 1) + NAME + b"\0"
            else:
                sent, message = Pending.OPEN, _CONTROL.pack(PORT, Event.PORT_OPEN, 1)
            written = scatter(memoryview(message), chain)
            if written < len(message):
                raise DriverError(f"{written} bytes for a control message")
            queue.push(written)
            state.pending &= ~int(sent)
        self.notify_driver(queue)


def _gather(chain: list[memoryview], size: int) -> bytes:
    """Return the first ``size`` bytes of the chain's buffers, or all of them."""
    data = b""
    for buffer in chain:
        data += buffer[: size - len(data)]
    return data
