"""Serial port: a 16550A, with the optional 64-byte FIFOs of a 16750.

After the data sheets PC16550D (National Semiconductor, 1995) and TL16C750 (Texas Instruments,
SLLS191C), and the probes of Linux (drivers/tty/serial/8250/8250_port.c).

Time does not pass in the device. A character is sent when the backend takes it, and baud rate and
format are only kept. Characters below the trigger level have timed out at once, since no later
event would report them. The flow control of a 16750 is left out: its far end is always ready.
"""

from __future__ import annotations

from slipway.vmm.record import field, record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.devices.model import Backend, Trigger

# Plain numbers: each access is a VM exit, and arithmetic with members of an enum would cost more
# than all the rest. Sections are those of PC16550D.

# Registers, as offsets from the first port (8.0).
DATA = 0  # received data when read, data to send when written; low divisor while LCR_DLAB is set
IER = 1  # interrupt enable; high divisor while LCR_DLAB is set
IIR = 2  # interrupt identification when read
FCR = 2  # FIFO control when written
LCR = 3  # line control
MCR = 4  # modem control
LSR = 5  # line status
MSR = 6  # modem status
SCR = 7  # scratch

# Interrupt enable (8.6).
IER_DATA = 0x01  # received data
IER_THRE = 0x02  # transmitter empty
IER_LINE = 0x04  # line status
IER_MODEM = 0x08  # modem status

# Cause of the interrupt, in the lower four bits of the IIR (8.5).
IIR_MODEM = 0x0
IIR_NONE = 0x1
IIR_THRE = 0x2
IIR_DATA = 0x4
IIR_LINE = 0x6
IIR_TIMEOUT = 0xC  # data below the trigger level

# FIFO control (8.4).
FCR_ENABLE = 0x01
FCR_CLEAR_RX = 0x02
FCR_CLEAR_TX = 0x04
FCR_WIDE = 0x20  # FIFOs of 64 bytes (TL16C750, "FIFO control register")
FCR_LEVEL = 0xC0  # the receiver's trigger level, 0 to 3

# Line control (8.1).
LCR_BREAK = 0x40
LCR_DLAB = 0x80  # divisor latch access

# Modem control (8.7).
MCR_DTR = 0x01
MCR_RTS = 0x02
MCR_OUT1 = 0x04
MCR_OUT2 = 0x08
MCR_LOOP = 0x10

# Line status (8.3). Parity, framing and break errors never occur.
LSR_READY = 0x01
LSR_OVERRUN = 0x02
LSR_THRE = 0x20  # transmitter empty
LSR_TEMT = 0x40  # and its shift register too

# Modem status (8.8). A delta says that a line has changed since the last read.
MSR_DELTA_CTS = 0x01
MSR_DELTA_DSR = 0x02
MSR_TRAILING_RI = 0x04
MSR_DELTA_DCD = 0x08
MSR_CTS = 0x10
MSR_DSR = 0x20
MSR_RI = 0x40
MSR_DCD = 0x80

# Upper bits of the IIR, size of each FIFO in bytes, and the receiver's trigger levels.
_NO_FIFO = (0x00, 1, (1, 1, 1, 1))
_FIFO = (0xC0, 16, (1, 4, 8, 14))
_FIFO_64 = (0xE0, 64, (1, 16, 32, 56))

_IDLE = LSR_THRE | LSR_TEMT
_BYTES = tuple(bytes((value,)) for value in range(256))
# Modem status by the lower five bits of the MCR. In the loop the guest's own lines come back: RTS
# as CTS, DTR as DSR, OUT1 as RI, OUT2 as DCD. Else the far end is always ready.
_MODEM = tuple(
    (mcr & MCR_RTS) << 3 | (mcr & MCR_DTR) << 5 | (mcr & (MCR_OUT1 | MCR_OUT2)) << 4
    if mcr & MCR_LOOP
    else MSR_CTS | MSR_DSR | MSR_DCD
    for mcr in range(32)
)


@record
class Counters:
    """Counts of lost characters and of breaks, for the host, and not part of the state."""

    overruns: int = 0  # characters that came to a full receiver
    dropped: int = 0  # characters that the guest wrote to a full transmitter
    breaks: int = 0  # sent by the guest


@record
class UartState:
    """Complete state of a port; the defaults are those of a reset."""

    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    scr: int = 0
    dll: int = 1  # not 0, by which Linux's earlycon would divide
    dlm: int = 0
    errors: int = 0  # bits of the LSR that stay until it is read
    deltas: int = 0  # bits of the MSR that stay until it is read
    thre: bool = False  # the interrupt is due; the bit of the LSR depends on ``unsent``
    asserted: bool = False  # an enabled interrupt is due, and was triggered
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)


class Uart:
    """Serial port.

    On a PC's board, OUT2 of the MCR gates the interrupt. The chip itself does not, nor do the
    boards of other architectures, and an edge that a gate has swallowed is not repeated: no gate
    here.
    """

    __slots__ = (
        "_can_receive",
        "_fifo",
        "_has_wide_fifo",
        "_level",
        "_send",
        "_size",
        "_state",
        "_trigger",
        "counters",
    )

    def __init__(self, trigger: Trigger, backend: Backend, *, has_wide_fifo: bool = False) -> None:
        """Make a port; ``has_wide_fifo``: FIFOs have 64 bytes whenever they are enabled."""
        self._has_wide_fifo = has_wide_fifo
        self.counters = Counters()
        self._trigger = trigger
        self._send = backend.send
        self._can_receive = backend.can_receive
        self.restore(UartState())

    def save_state(self) -> UartState:
        """Return a copy of the state."""
        s = self._state
        return replace(s, received=s.received.copy(), unsent=s.unsent.copy())

    def restore(self, state: UartState) -> None:
        """Restore a copy of ``state``. An interrupt that was triggered is not triggered again."""
        self._state = replace(state, received=state.received.copy(), unsent=state.unsent.copy())
        self._set_fcr(state.fcr)

    def read(self, offset: int, size: int) -> int:
        """Return one register; offsets beyond the last read as ones."""
        s = self._state
        if offset == LSR:
            errors = s.errors
            value = errors if s.unsent else errors | _IDLE
            if s.received:
                value |= LSR_READY
            if errors:
                s.errors = 0
                self._settle()
            return value
        if offset == DATA:
            return s.dll if s.lcr & LCR_DLAB else self._read_data()
        if offset == IIR:
            return self._fifo | self._identify()
        if offset == MSR:
            value = _MODEM[s.mcr] | s.deltas
            s.deltas = 0
            self._settle()
            return value
        if offset == IER:
            return s.dlm if s.lcr & LCR_DLAB else s.ier
        return {LCR: s.lcr, MCR: s.mcr, SCR: s.scr}.get(offset, 0xFF)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write one register."""
        s = self._state
        value &= 0xFF
        if offset == DATA:
            self.write_burst(_BYTES[value])
        elif offset == IER and s.lcr & LCR_DLAB:
            s.dlm = value
        elif offset == IER:
            # Enabling the interrupt raises it, even if acknowledged before: Linux tests for that,
            # and would fall back to a timer (UART_BUG_THRE).
            s.thre = s.thre or bool(value & ~s.ier & IER_THRE and not s.unsent)
            s.ier = value & 0x0F
            self._settle()
        elif offset == FCR:
            self._write_fcr(value)
        elif offset == LCR:
            # A break is on the wire, not in the transmitter: no delay, and no part of the loop.
            self.counters.breaks += bool(value & ~s.lcr & LCR_BREAK)
            s.lcr = value
        elif offset == MCR:
            self._write_mcr(value & 0x1F)
        elif offset == SCR:
            s.scr = value

    def write_burst(self, data: bytes) -> None:
        """Write each byte of ``data``, at least one, to register 0 without an access between."""
        s = self._state
        if s.lcr & LCR_DLAB:
            s.dll = data[-1]
        elif s.mcr & MCR_LOOP:
            for value in data:
                self._put(value)
            s.thre = True
            self._settle()
        else:
            self._transmit(data)

    def receive(self, data: bytes | memoryview) -> int:
        """Take as many characters as fit and return their number; see ``Backend.can_receive``."""
        s = self._state
        # No input in the loop, by which Linux's probe would lose characters.
        room = 0 if s.mcr & MCR_LOOP else self._size - len(s.received)
        data = data[:room]
        s.received += data
        self._settle()
        return len(data)

    def drain(self) -> None:
        """Continue to send: the backend can take more."""
        if self._state.unsent:
            self._transmit(b"")

    def _settle(self) -> None:
        """Trigger on a rise of the interrupt only: drivers read the IIR until no cause is left."""
        s = self._state
        ier = s.ier
        if ier and (
            (ier & IER_DATA and s.received)
            or (ier & IER_THRE and s.thre)
            or (ier & IER_LINE and s.errors)
            or (ier & IER_MODEM and s.deltas)
        ):
            if not s.asserted:
                s.asserted = True
                self._trigger()
        else:
            s.asserted = False

    def _identify(self) -> int:
        s = self._state
        ier = s.ier
        if ier & IER_LINE and s.errors:
            return IIR_LINE
        if ier & IER_DATA and s.received:
            return IIR_DATA if len(s.received) >= self._level else IIR_TIMEOUT
        if ier & IER_THRE and s.thre:
            s.thre = False  # a read of this cause acknowledges it
            self._settle()
            return IIR_THRE
        return IIR_MODEM if ier & IER_MODEM and s.deltas else IIR_NONE

    def _read_data(self) -> int:
        s = self._state
        received = s.received
        if not received:
            return 0
        value = received.pop(0)
        if received:
            return value  # the causes of an interrupt are as before
        self._can_receive()  # first: if more data comes, the interrupt stays
        self._settle()
        return value

    def _put(self, value: int) -> None:
        """Receive a character of the loop; without room a character is lost."""
        s = self._state
        if len(s.received) >= self._size:
            self.counters.overruns += 1
            s.errors |= LSR_OVERRUN
            if s.fcr:
                return  # a FIFO keeps its characters; a single register does not
            s.received.clear()
        s.received.append(value)

    def _transmit(self, data: bytes) -> None:
        s = self._state
        unsent = s.unsent
        if unsent:
            data = bytes(unsent) + data
            unsent.clear()
        sent = self._send(data)
        if sent < len(data):
            unsent += data[sent : sent + self._size]
            self.counters.dropped += len(data) - sent - len(unsent)
        s.thre = not unsent
        self._settle()

    def _write_fcr(self, value: int) -> None:
        s = self._state
        if not value & FCR_ENABLE:
            value = 0  # without this bit, the others have no effect
        elif not s.lcr & LCR_DLAB:
            # The TL16C750 protects the bit by DLAB. Linux takes a chip without the protection for
            # a 16550A, and expects this write to clear the bit.
            value &= ~FCR_WIDE
        size = self._size
        self._set_fcr(value & ~(FCR_CLEAR_RX | FCR_CLEAR_TX))
        clear = value if self._size == size else FCR_CLEAR_RX | FCR_CLEAR_TX
        if clear & FCR_CLEAR_TX and s.unsent:
            s.unsent.clear()
            s.thre = True
        if clear & FCR_CLEAR_RX and s.received:
            s.received.clear()
            self._can_receive()
        self._settle()

    def _set_fcr(self, value: int) -> None:
        wide = self._has_wide_fifo or value & FCR_WIDE
        fifo = _NO_FIFO if not value & FCR_ENABLE else _FIFO_64 if wide else _FIFO
        self._fifo, self._size, levels = fifo
        self._level = levels[value >> 6]
        self._state.fcr = value

    def _write_mcr(self, value: int) -> None:
        s = self._state
        loop_ended = s.mcr & ~value & MCR_LOOP
        before, now = _MODEM[s.mcr] >> 4, _MODEM[value] >> 4
        s.deltas |= (before ^ now) & ~(now & MSR_TRAILING_RI)
        s.mcr = value
        self._settle()
        if loop_ended and len(s.received) < self._size:
            self._can_receive()
