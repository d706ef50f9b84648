"""A serial port: a 16550A, with the 64-byte FIFOs of a 16750 for who asks for them.

After the data sheets PC16550D (National Semiconductor, 1995) and TL16C750 (Texas Instruments,
SLLS191C), and what Linux expects of such a chip (drivers/tty/serial/8250/8250_port.c).

Time does not pass in it. A character is sent when the line takes it, so that baud rate and format
are only kept; characters that wait below the trigger level have timed out at once, since nothing
would come later to say so. The flow control of a 16750 is left out: its far end is always ready.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from slipway.vmm.record import field, record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.vmm.devices.model import Backend, Trigger

# Offsets. DATA is RBR to read and THR to write, IIR is FCR to write; while DLAB is set, DATA and
# IER are the divisor.
Register = IntEnum("Register", "DATA IER IIR LCR MCR LSR MSR SCR", start=0)
Ier = IntFlag("Ier", "DATA THRE LINE MODEM")
Iir = IntEnum("Iir", {"MODEM": 0, "NONE": 1, "THRE": 2, "DATA": 4, "LINE": 6, "TIMEOUT": 12})
Fcr = IntFlag("Fcr", {"ENABLE": 1, "CLEAR_RX": 2, "CLEAR_TX": 4, "WIDE": 0x20, "LEVEL": 0xC0})
Lcr = IntFlag("Lcr", {"BREAK": 0x40, "DLAB": 0x80})
Mcr = IntFlag("Mcr", "DTR RTS OUT1 OUT2 LOOP")
Lsr = IntFlag("Lsr", "READY OVERRUN PARITY FRAMING BREAK THRE TEMT FIFO_ERROR")
Msr = IntFlag("Msr", "DELTA_CTS DELTA_DSR TRAILING_RI DELTA_DCD CTS DSR RI DCD")

# The upper bits of the IIR, the size of each FIFO and the receiver's trigger levels.
_NO_FIFO = (0x00, 1, (1, 1, 1, 1))
_FIFO = (0xC0, 16, (1, 4, 8, 14))
_FIFO_64 = (0xE0, 64, (1, 16, 32, 56))

# Each access is a VM exit: arithmetic with members of an enum would cost more than all the rest.
_DATA, _IER, _IIR, _LCR, _MCR, _LSR, _MSR, _SCR = map(int, Register)
_DATA_ON, _THRE_ON, _LINE_ON, _MODEM_ON = map(int, Ier)
_BY_MODEM, _BY_NONE, _BY_THRE, _BY_DATA, _BY_LINE, _BY_TIMEOUT = map(int, Iir)
_ENABLE, _CLEAR_RX, _CLEAR_TX, _WIDE = map(int, Fcr)
_BREAK_CONTROL, _DLAB = map(int, Lcr)
_LOOP, _TRAILING_RI = int(Mcr.LOOP), int(Msr.TRAILING_RI)
_READY, _OVERRUN, _BREAK = int(Lsr.READY), int(Lsr.OVERRUN), int(Lsr.BREAK)
_EMPTY, _FIFO_ERROR = int(Lsr.THRE | Lsr.TEMT), int(Lsr.FIFO_ERROR)
_BYTES = tuple(bytes((value,)) for value in range(256))
# The other side's modem lines: all is ready, or in the loop it is the guest's own, crossed.
_MODEM = tuple(
    (m & 2) << 3 | (m & 1) << 5 | (m & 12) << 4 if m & _LOOP else 0xB0 for m in range(32)
)


@record
class Counters:
    """What was lost, and breaks; for the host to look at, and no part of the state."""

    overruns: int = 0  # characters that came when the receiver was full
    dropped: int = 0  # characters that the guest wrote when the transmitter was full
    breaks: int = 0  # that the guest sent


@record
class UartState:
    """All that a guest can tell of a port. The defaults are what a reset leaves."""

    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    scr: int = 0
    dll: int = 1  # not 0, by which Linux's earlycon would divide
    dlm: int = 0
    errors: int = 0  # those bits of the LSR that stay until it is read
    deltas: int = 0  # the same of the MSR
    thre: bool = False  # the interrupt is due; the LSR's bit tells from ``unsent``
    asserted: bool = False  # an interrupt that is enabled is due, and was triggered
    received: bytearray = field(default_factory=bytearray)
    breaks: int = 0  # bit n: that NUL in ``received`` is a break, not yet shown in ``errors``
    unsent: bytearray = field(default_factory=bytearray)


class Uart:
    """The port.

    On a PC's board MCR's OUT2 gates the interrupt; not here. The chip does not do it, nor do the
    boards of other architectures, and an edge that a gate has swallowed is not repeated.
    """

    __slots__ = ("_fifo", "_level", "_room", "_send", "_size", "_state", "_trigger", "counters")

    def __init__(self, trigger: Trigger, line: Backend) -> None:
        self.counters = Counters()
        self._trigger = trigger
        self._send = line.send
        self._room = line.can_receive
        self.restore(UartState())

    def save_state(self) -> UartState:
        """A copy of the state as it is."""
        s = self._state
        return replace(s, received=s.received.copy(), unsent=s.unsent.copy())

    def restore(self, state: UartState) -> None:
        """Become what ``state`` says. An interrupt that has been triggered is not again."""
        self._state = replace(state, received=state.received.copy(), unsent=state.unsent.copy())
        self._set_fcr(state.fcr)

    def read(self, offset: int, size: int) -> int:
        """One register; what is beyond them reads as ones."""
        s = self._state
        if offset == _LSR:
            errors = s.errors
            value = errors if s.unsent else errors | _EMPTY
            if s.received:
                value |= _READY
            if (s.breaks or errors & _BREAK) and s.fcr:
                value |= _FIFO_ERROR
            if errors:
                s.errors = 0
                self._settle()
            return value
        if offset == _DATA:
            return s.dll if s.lcr & _DLAB else self._read_data()
        if offset == _IIR:
            return self._fifo | self._identify()
        if offset == _MSR:
            value = _MODEM[s.mcr] | s.deltas
            s.deltas = 0
            self._settle()
            return value
        if offset == _IER:
            return s.dlm if s.lcr & _DLAB else s.ier
        return {_LCR: s.lcr, _MCR: s.mcr, _SCR: s.scr}.get(offset, 0xFF)

    def write(self, offset: int, size: int, value: int) -> None:
        """One register."""
        s = self._state
        value &= 0xFF
        if offset == _DATA:
            self.write_burst(_BYTES[value])
        elif offset == _IER and s.lcr & _DLAB:
            s.dlm = value
        elif offset == _IER:
            # To enable it raises it, even if it was acknowledged before: Linux tests for that, and
            # falls back to a timer where it is not so (UART_BUG_THRE).
            s.thre = s.thre or bool(value & ~s.ier & _THRE_ON and not s.unsent)
            s.ier = value & 0x0F
            self._settle()
        elif offset == _IIR:
            self._write_fcr(value)
        elif offset == _LCR:
            # A break is on the wire and not in the transmitter: it delays nothing, and loops not.
            self.counters.breaks += bool(value & ~s.lcr & _BREAK_CONTROL)
            s.lcr = value
        elif offset == _MCR:
            self._write_mcr(value & 0x1F)
        elif offset == _SCR:
            s.scr = value

    def write_burst(self, data: bytes) -> None:
        """Write each byte of ``data``, which has some, to register 0 with nothing in between."""
        s = self._state
        if s.lcr & _DLAB:
            s.dll = data[-1]
        elif s.mcr & _LOOP:
            for value in data:
                self._put(value)
            s.thre = True
            self._settle()
        else:
            self._transmit(data)

    def receive(self, data: bytes | memoryview) -> int:
        """Take as many characters as fit and return their number; see ``Backend.can_receive``."""
        s = self._state
        # Nothing comes in while the port hears itself; so Linux's probe does not lose any of it.
        room = 0 if s.mcr & _LOOP else self._size - len(s.received)
        data = data[:room]
        s.received += data
        self._settle()
        return len(data)

    def receive_break(self) -> None:
        """The other side sends a break. Where there is no room it is an overrun."""
        s = self._state
        if not s.mcr & _LOOP and self._put(0):
            s.breaks |= 1 << len(s.received) - 1
        self._settle()

    def drain(self) -> None:
        """The line can take more."""
        if self._state.unsent:
            self._transmit(b"")

    def _settle(self) -> None:
        """Trigger if an interrupt is due and none was: drivers read the IIR until none is."""
        s = self._state
        if s.breaks & 1:
            # An error is shown when its character is the next to be read.
            s.breaks ^= 1
            s.errors |= _BREAK
        ier = s.ier
        if ier and (
            (ier & _DATA_ON and s.received)
            or (ier & _THRE_ON and s.thre)
            or (ier & _LINE_ON and s.errors)
            or (ier & _MODEM_ON and s.deltas)
        ):
            if not s.asserted:
                s.asserted = True
                self._trigger()
        else:
            s.asserted = False

    def _identify(self) -> int:
        s = self._state
        ier = s.ier
        if ier & _LINE_ON and s.errors:
            return _BY_LINE
        if ier & _DATA_ON and s.received:
            return _BY_DATA if len(s.received) >= self._level else _BY_TIMEOUT
        if ier & _THRE_ON and s.thre:
            s.thre = False  # to read that it is the cause acknowledges it
            self._settle()
            return _BY_THRE
        return _BY_MODEM if ier & _MODEM_ON and s.deltas else _BY_NONE

    def _read_data(self) -> int:
        s = self._state
        received = s.received
        if not received:
            return 0
        value = received.pop(0)
        s.breaks >>= 1
        if not received:
            self._room()  # before the interrupt is looked at: where more comes it just stays
        self._settle()
        return value

    def _put(self, value: int) -> bool:
        """Receive a character whether or not there is room; False if it got lost."""
        s = self._state
        if len(s.received) >= self._size:
            self.counters.overruns += 1
            s.errors |= _OVERRUN
            if s.fcr:
                return False  # a FIFO keeps what it has; a single register would not
            s.received.clear()
        s.received.append(value)
        return True

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
        if not value & _ENABLE:
            value = 0  # the other bits are not heeded then
        elif not s.lcr & _DLAB:
            # The TL16C750 protects the bit so. Linux takes a chip that does not for a 16550A, and
            # counts on the bit to be cleared by this.
            value &= ~_WIDE
        size = self._size
        self._set_fcr(value & ~(_CLEAR_RX | _CLEAR_TX))
        clear = value if self._size == size else _CLEAR_RX | _CLEAR_TX
        if clear & _CLEAR_TX and s.unsent:
            s.unsent.clear()
            s.thre = True
        if clear & _CLEAR_RX and s.received:
            s.received.clear()
            s.breaks = 0
            s.errors &= ~_BREAK
            self._room()
        self._settle()

    def _set_fcr(self, value: int) -> None:
        fifo = _NO_FIFO if not value & _ENABLE else _FIFO_64 if value & _WIDE else _FIFO
        self._fifo, self._size, levels = fifo
        self._level = levels[value >> 6]
        self._state.fcr = value

    def _write_mcr(self, value: int) -> None:
        s = self._state
        loop_ended = s.mcr & ~value & _LOOP
        before, now = _MODEM[s.mcr] >> 4, _MODEM[value] >> 4
        s.deltas |= (before ^ now) & ~(now & _TRAILING_RI)
        s.mcr = value
        self._settle()
        if loop_ended and len(s.received) < self._size:
            self._room()
