"""The serial port, register by register and as Linux's 8250 driver goes about with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slipway.vmm.devices.uart import Uart
from support.uart_registers import Fcr, Ier, Iir, Lcr, Lsr, Mcr, Msr, Register

if TYPE_CHECKING:
    from collections.abc import Callable

R = Register
FCR = R.IIR
IDLE = Lsr.THRE | Lsr.TEMT
FIFO_BITS, FIFO_64_BITS = 0xC0, 0xE0


class Port:
    """A port, the line that it is on, and what came of both."""

    def __init__(self, accepts: int = 1 << 20, *, has_wide_fifo: bool = False) -> None:
        self.accepts = accepts
        self.sent = b""
        self.sends = 0
        self.rooms = 0
        self.triggers = 0
        self.on_room: Callable[[], object] = lambda: None
        self.uart = Uart(self._trigger, self, has_wide_fifo=has_wide_fifo)

    def _trigger(self) -> None:
        self.triggers += 1

    def send(self, data: bytes | memoryview) -> int:
        self.sends += 1
        taken = data[: self.accepts]
        self.accepts -= len(taken)
        self.sent += taken
        return len(taken)

    def can_receive(self) -> None:
        self.rooms += 1
        self.on_room()

    def read(self, register: int) -> int:
        return self.uart.read(register, 1)

    def write(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)

    def enable_fifo(self, flags: int = 0) -> None:
        self.write(FCR, Fcr.ENABLE | flags)

    def enable_fifo_64(self) -> None:
        self.write(R.LCR, Lcr.DLAB)
        self.enable_fifo(Fcr.WIDE)
        self.write(R.LCR, 0x03)

    def receive_all(self) -> bytes:
        data = bytearray()
        while self.read(R.LSR) & Lsr.READY:
            data.append(self.read(R.DATA))
        return bytes(data)


@pytest.fixture
def port() -> Port:
    return Port()


# --- What Linux does


def test_autoconfig_finds_a_port_and_the_scratch_register(port: Port) -> None:
    """autoconfig(), the existence and loop tests; autoconfig_8250()."""
    port.write(R.IER, 0)
    assert port.read(R.IER) & 0x0F == 0
    port.write(R.IER, 0x0F)
    assert port.read(R.IER) & 0x0F == 0x0F
    port.write(R.IER, 0)

    port.write(R.MCR, Mcr.LOOP | 0x0A)
    assert port.read(R.MSR) & 0xF0 == 0x90
    port.write(R.MCR, 0)

    for value in (0xA5, 0x5A):
        port.write(R.SCR, value)
        assert port.read(R.SCR) == value


def test_autoconfig_16550a_finds_a_ti16750(port: Port) -> None:
    """autoconfig() from the EFR on; autoconfig_16550a() where the kernel knows the variants."""
    port.write(R.LCR, 0xBF)
    port.write(FCR, 0)
    port.write(R.LCR, 0)
    port.write(FCR, Fcr.ENABLE)
    assert port.read(R.IIR) >> 6 == 3
    # No EFR, neither of the first nor of the second kind.
    port.write(R.LCR, Lcr.DLAB)
    assert port.read(R.IIR) != 0
    port.write(R.LCR, 0xBF)
    assert port.read(R.IIR) != 0
    # No SuperIO of National Semiconductor: the bit of the loop does not show in another bank.
    port.write(R.LCR, 0)
    mcr = port.read(R.MCR)
    for value in (mcr, mcr ^ Mcr.LOOP):
        port.write(R.MCR, value)
        port.write(R.LCR, 0xE0)
        assert not port.read(R.IIR) & Mcr.LOOP
        port.write(R.LCR, 0)
    port.write(R.MCR, mcr)

    port.write(FCR, Fcr.ENABLE | Fcr.WIDE)
    without_dlab = port.read(R.IIR) >> 5
    port.write(FCR, Fcr.ENABLE)
    port.write(R.LCR, Lcr.DLAB)
    port.write(FCR, Fcr.ENABLE | Fcr.WIDE)
    with_dlab = port.read(R.IIR) >> 5
    port.write(FCR, Fcr.ENABLE)
    port.write(R.LCR, 0)

    assert (without_dlab, with_dlab) == (6, 7)
    assert port.read(R.IIR) >> 5 == 6
    # Not an XScale either: it would keep the bit "unit enable" of the IER.
    port.write(R.IER, 0x40)
    assert port.read(R.IER) == 0


@pytest.mark.parametrize(("wide", "size"), [(False, 16), (True, 64)])
def test_size_fifo_counts_what_comes_back_in_the_loop(port: Port, wide: bool, size: int) -> None:
    """size_fifo()."""
    if wide:
        port.enable_fifo_64()
    else:
        port.enable_fifo(Fcr.CLEAR_RX | Fcr.CLEAR_TX)
    port.write(R.MCR, Mcr.LOOP)
    port.write(R.LCR, Lcr.DLAB)
    port.write(R.DATA, 1)
    port.write(R.IER, 0)
    port.write(R.LCR, 0x03)
    for count in range(256):
        port.write(R.DATA, count)

    assert port.receive_all() == bytes(range(size))
    assert port.sent == b""
    assert port.uart.counters.overruns == 256 - size


def test_startup_finds_no_bug_of_the_transmit_interrupt(port: Port) -> None:
    """serial8250_do_startup(): UART_BUG_THRE and UART_BUG_TXEN."""
    for fcr in (Fcr.ENABLE, Fcr.ENABLE | Fcr.CLEAR_RX | Fcr.CLEAR_TX, 0):
        port.write(FCR, fcr)
    for register in (R.LSR, R.DATA, R.IIR, R.MSR):
        port.read(register)
    assert port.read(R.LSR) == IDLE

    port.write(R.IER, Ier.THRE)
    first = port.read(R.IIR)
    port.write(R.IER, 0)
    port.write(R.IER, Ier.THRE)
    second = port.read(R.IIR)
    port.write(R.IER, 0)
    assert (first, second) == (Iir.THRE, Iir.THRE)

    port.write(R.LCR, 0x03)
    port.write(R.MCR, Mcr.OUT2)
    port.write(R.IER, Ier.THRE)
    assert port.read(R.LSR) & Lsr.TEMT
    assert port.read(R.IIR) == Iir.THRE
    port.write(R.IER, 0)
    assert port.read(R.IIR) == Iir.NONE


def handle_interrupt(port: Port, output: list[bytes]) -> bytes:
    """serial8250_interrupt(): until no interrupt is pending; what it received."""
    received = b""
    while not (iir := port.read(R.IIR)) & Iir.NONE:
        status = port.read(R.LSR)
        while status & (Lsr.READY | Lsr.BREAK) and iir & Iir.DATA:
            received += bytes([port.read(R.DATA)])
            status = port.read(R.LSR)
        port.read(R.MSR)
        if status & Lsr.THRE:
            if output:
                port.uart.write_burst(output.pop(0))
            if not output:
                port.write(R.IER, Ier.DATA | Ier.LINE)
    return received


def test_interrupt_handler_sends_and_receives_all(port: Port) -> None:
    port.enable_fifo(0x80)
    port.write(R.IER, Ier.DATA | Ier.LINE)
    assert port.triggers == 0

    port.write(R.IER, Ier.DATA | Ier.LINE | Ier.THRE)
    assert port.triggers == 1
    handle_interrupt(port, [b"0123456789abcdef", b"ghi"])
    assert port.sent == b"0123456789abcdefghi"

    before = port.triggers
    assert port.uart.receive(b"to the guest, and more") == 16
    assert port.triggers == before + 1
    assert handle_interrupt(port, []) == b"to the guest, an"
    assert port.read(R.IIR) & Iir.NONE
    assert port.rooms == 1


# --- Transmitting


def test_a_character_goes_to_the_line_at_once(port: Port) -> None:
    port.write(R.DATA, ord("x"))

    assert port.sent == b"x"
    assert port.read(R.LSR) == IDLE


def test_what_the_line_does_not_take_waits_in_the_fifo_for_the_drain() -> None:
    port = Port(accepts=2)
    port.enable_fifo()
    port.uart.write_burst(b"abcde")
    assert port.read(R.LSR) == 0

    port.accepts = 1
    port.uart.drain()
    assert (port.sent, port.read(R.LSR)) == (b"abc", 0)
    port.accepts = 9
    port.uart.drain()

    assert (port.sent, port.read(R.LSR)) == (b"abcde", IDLE)
    assert port.uart.counters.dropped == 0


def test_the_drain_raises_the_transmit_interrupt_only_when_all_is_gone() -> None:
    port = Port(accepts=0)
    port.enable_fifo()
    port.uart.write_burst(b"abc")
    port.write(R.IER, Ier.THRE)
    assert (port.triggers, port.read(R.IIR)) == (0, FIFO_BITS | Iir.NONE)

    port.accepts = 2
    port.uart.drain()
    assert port.triggers == 0
    port.accepts = 1
    port.uart.drain()

    assert port.triggers == 1
    assert port.read(R.IIR) == FIFO_BITS | Iir.THRE


def test_a_drain_of_nothing_is_nothing(port: Port) -> None:
    port.write(R.IER, Ier.THRE)
    port.read(R.IIR)
    port.uart.drain()

    assert (port.sends, port.triggers) == (0, 1)


@pytest.mark.parametrize("size", [1, 16, 64])
def test_what_is_written_without_room_is_dropped_and_counted(size: int) -> None:
    port = Port(accepts=0)
    if size > 1:
        (port.enable_fifo_64 if size == 64 else port.enable_fifo)()
    for value in range(100):
        port.write(R.DATA, value)
    port.accepts = 100
    port.uart.drain()

    assert port.sent == bytes(range(size))
    assert port.uart.counters.dropped == 100 - size


def test_wide_fifo_needs_no_bit_and_ends_with_the_fifo() -> None:
    port = Port(has_wide_fifo=True)
    port.enable_fifo()

    assert port.uart.receive(bytes(100)) == 64
    state = port.uart.save_state()
    port.uart.restore(state)
    assert port.uart.receive(b"x") == 0
    port.write(FCR, 0)
    assert port.uart.receive(bytes(100)) == 1


def test_bytes_of_a_fifo_come_with_one_interrupt_and_no_more_until_it_is_empty() -> None:
    port = Port(has_wide_fifo=True)
    port.enable_fifo()
    port.write(R.IER, Ier.DATA)
    data = bytes(range(64))
    port.uart.receive(data)
    assert (port.triggers, port.rooms) == (1, 0)

    read = bytes(port.read(R.DATA) for _ in data)

    assert read == data
    assert (port.triggers, port.rooms) == (1, 1)
    port.uart.receive(b"next")
    assert port.triggers == 2


def test_a_burst_longer_than_the_fifo_is_one_call_and_loses_nothing(port: Port) -> None:
    port.enable_fifo()
    port.uart.write_burst(bytes(170))

    assert (port.sent, port.sends) == (bytes(170), 1)
    assert port.uart.counters.dropped == 0


def test_a_burst_goes_after_what_waits() -> None:
    port = Port(accepts=0)
    port.enable_fifo()
    port.uart.write_burst(b"first")
    port.accepts = 100
    port.uart.write_burst(b"second")

    assert port.sent == b"firstsecond"


def test_writing_lets_the_transmit_interrupt_fall_until_it_is_sent() -> None:
    port = Port(accepts=0)
    port.enable_fifo()
    port.write(R.IER, Ier.THRE)
    port.write(R.DATA, 0)

    assert port.read(R.IIR) == FIFO_BITS | Iir.NONE


def test_each_character_written_triggers_no_more_than_the_first(port: Port) -> None:
    port.enable_fifo()
    port.write(R.IER, Ier.THRE)
    port.read(R.IIR)
    for value in b"0123456789abcdef":
        port.write(R.DATA, value)

    assert port.triggers == 2


def test_clearing_the_transmitter_forgets_what_waits() -> None:
    port = Port(accepts=0)
    port.enable_fifo()
    port.write(R.IER, Ier.THRE)
    port.uart.write_burst(b"abc")
    port.enable_fifo(Fcr.CLEAR_TX)
    port.accepts = 9
    port.uart.drain()

    assert port.sent == b""
    assert port.read(R.LSR) == IDLE
    assert port.read(R.IIR) == FIFO_BITS | Iir.THRE


def test_a_break_of_the_guest_is_counted_when_it_begins(port: Port) -> None:
    for lcr in (0x03, 0x43, 0x43, 0x03, 0x43):
        port.write(R.LCR, lcr)

    assert port.uart.counters.breaks == 2


# --- Receiving


def test_without_a_fifo_one_character_is_taken(port: Port) -> None:
    port.write(R.IER, Ier.DATA)

    assert port.uart.receive(b"ab") == 1
    assert port.uart.receive(b"b") == 0
    assert port.read(R.IIR) == Iir.DATA
    assert port.receive_all() == b"a"
    assert port.rooms == 1


@pytest.mark.parametrize(
    ("wide", "bits", "level"),
    [
        (False, 0x00, 1),
        (False, 0x40, 4),
        (False, 0x80, 8),
        (False, 0xC0, 14),
        (True, 0x00, 1),
        (True, 0x40, 16),
        (True, 0x80, 32),
        (True, 0xC0, 56),
    ],
)
def test_below_the_trigger_level_data_has_timed_out_at_once(
    port: Port, wide: bool, bits: int, level: int
) -> None:
    port.write(R.LCR, Lcr.DLAB)
    port.enable_fifo(bits | (Fcr.WIDE if wide else 0))
    port.write(R.LCR, 0x03)
    port.write(R.IER, Ier.DATA)

    port.uart.receive(bytes(level - 1))
    below = port.read(R.IIR) & 0x0F
    port.uart.receive(b"x")

    assert below == (Iir.TIMEOUT if level > 1 else Iir.NONE)
    assert port.read(R.IIR) == (FIFO_64_BITS if wide else FIFO_BITS) | Iir.DATA
    assert port.triggers == 1


def test_the_line_hears_of_room_when_the_last_character_is_read(port: Port) -> None:
    port.enable_fifo()
    port.uart.receive(b"abc")
    port.read(R.DATA)
    port.read(R.DATA)
    assert port.rooms == 0
    port.read(R.DATA)
    assert port.rooms == 1

    assert port.read(R.DATA) == 0
    assert port.rooms == 1


def test_the_line_may_give_more_while_it_hears_of_room(port: Port) -> None:
    stream = bytearray(range(100))

    def give() -> None:
        del stream[: port.uart.receive(bytes(stream))]

    port.on_room = give
    port.enable_fifo()
    port.write(R.IER, Ier.DATA)
    give()

    assert port.receive_all() == bytes(range(100))
    # There always was something to read, so that one edge announced all of it.
    assert port.triggers == 1


def test_the_line_may_answer_while_it_is_sent_to(port: Port) -> None:
    class Echo(Port):
        def send(self, data: bytes | memoryview) -> int:
            self.uart.receive(data)
            self.uart.drain()
            return super().send(data)

    port = Echo()
    port.enable_fifo()
    port.uart.write_burst(b"echo")

    assert port.receive_all() == b"echo"
    assert port.sent == b"echo"


def test_clearing_the_receiver_makes_room(port: Port) -> None:
    port.enable_fifo()
    port.uart.receive(bytes(16))
    port.enable_fifo(Fcr.CLEAR_RX)

    assert port.read(R.LSR) == IDLE
    assert port.rooms == 1


def test_a_fifo_that_is_switched_on_or_off_is_empty() -> None:
    port = Port(accepts=0)
    port.uart.receive(b"x")
    port.write(R.DATA, 0)
    port.enable_fifo()
    assert port.read(R.LSR) == IDLE

    port.uart.receive(b"xyz")
    port.uart.write_burst(b"xyz")
    port.write(FCR, 0)
    assert port.read(R.LSR) == IDLE


def test_without_the_enabling_bit_no_other_of_the_fcr_is_heeded(port: Port) -> None:
    port.uart.receive(b"x")
    port.write(FCR, Fcr.CLEAR_RX | Fcr.CLEAR_TX | Fcr.LEVEL)

    assert port.receive_all() == b"x"
    assert port.read(R.IIR) == Iir.NONE


# --- The line's status


def test_character_without_room_takes_the_place_of_another_without_a_fifo(port: Port) -> None:
    port.write(R.MCR, Mcr.LOOP)
    port.uart.write_burst(b"ab")

    assert port.read(R.LSR) == IDLE | Lsr.READY | Lsr.OVERRUN
    assert port.receive_all() == b"b"


def test_character_without_room_in_the_fifo_is_an_overrun(port: Port) -> None:
    port.enable_fifo()
    port.write(R.IER, Ier.LINE)
    port.write(R.MCR, Mcr.LOOP)
    port.uart.write_burst(bytes(range(17)))

    assert port.triggers == 1
    assert port.read(R.IIR) == FIFO_BITS | Iir.LINE
    assert port.read(R.LSR) == IDLE | Lsr.READY | Lsr.OVERRUN
    assert port.read(R.LSR) == IDLE | Lsr.READY
    assert port.read(R.IIR) == FIFO_BITS | Iir.NONE
    assert port.receive_all() == bytes(range(16))
    assert port.uart.counters.overruns == 1


def test_each_overrun_is_triggered_once_the_last_was_read(port: Port) -> None:
    port.enable_fifo()
    port.write(R.IER, Ier.LINE)
    port.write(R.MCR, Mcr.LOOP)
    port.uart.write_burst(bytes(16))
    for round_ in range(3):
        port.uart.write_burst(b"x")
        port.uart.write_burst(b"x")
        assert port.triggers == round_ + 1
        port.read(R.LSR)


# --- Modem and loop


def test_the_other_side_is_always_ready(port: Port) -> None:
    assert port.read(R.MSR) == Msr.CTS | Msr.DSR | Msr.DCD


@pytest.mark.parametrize(
    ("mine", "other"),
    [(Mcr.RTS, Msr.CTS), (Mcr.DTR, Msr.DSR), (Mcr.OUT1, Msr.RI), (Mcr.OUT2, Msr.DCD)],
)
def test_the_loop_crosses_the_modem_lines(port: Port, mine: Mcr, other: Msr) -> None:
    port.write(R.MCR, Mcr.LOOP)
    port.read(R.MSR)
    port.write(R.MCR, Mcr.LOOP | mine)
    raised = port.read(R.MSR)
    port.write(R.MCR, Mcr.LOOP)
    fallen = port.read(R.MSR)

    delta = other >> 4
    # RI is told of only when it ends.
    assert raised == other | (0 if other == Msr.RI else delta)
    assert fallen == delta
    assert port.read(R.MSR) == 0


def test_a_modem_line_that_changes_interrupts_until_the_status_is_read(port: Port) -> None:
    port.write(R.IER, Ier.MODEM)
    port.write(R.MCR, Mcr.LOOP)

    assert port.triggers == 1
    assert port.read(R.IIR) == Iir.MODEM
    port.read(R.MSR)
    assert port.read(R.IIR) == Iir.NONE


def test_input_waits_while_the_port_hears_itself(port: Port) -> None:
    port.enable_fifo()
    port.write(R.MCR, Mcr.LOOP)
    assert port.uart.receive(b"input") == 0

    port.uart.write_burst(b"loop")
    assert port.receive_all() == b"loop"
    before = port.rooms
    port.write(R.MCR, 0)

    assert port.rooms == before + 1
    assert port.uart.receive(b"input") == 5
    assert port.sent == b""


def test_in_the_loop_what_is_written_is_sent(port: Port) -> None:
    port.write(R.MCR, Mcr.LOOP)
    port.write(R.IER, Ier.THRE)
    port.read(R.IIR)
    port.write(R.DATA, 1)

    assert port.read(R.IIR) == Iir.THRE


# --- Interrupts


def test_interrupts_are_told_by_their_priority(port: Port) -> None:
    port.enable_fifo(0x40)
    port.write(R.MCR, Mcr.LOOP)
    port.uart.write_burst(bytes(17))
    port.write(R.MCR, 0)
    for _ in range(15):
        port.read(R.DATA)
    port.write(R.IER, Ier.DATA | Ier.THRE | Ier.LINE | Ier.MODEM)

    causes = []
    for acknowledge in (R.LSR, R.DATA, R.IIR, R.MSR):
        causes.append(port.read(R.IIR) & 0x0F)
        if acknowledge != R.IIR:
            port.read(acknowledge)
    causes.append(port.read(R.IIR) & 0x0F)

    assert causes == [Iir.LINE, Iir.TIMEOUT, Iir.THRE, Iir.MODEM, Iir.NONE]
    assert port.triggers == 1


def test_reading_the_iir_acknowledges_only_the_interrupt_it_tells(port: Port) -> None:
    port.write(R.IER, Ier.THRE | Ier.DATA)
    port.uart.receive(b"x")

    assert port.read(R.IIR) == Iir.DATA
    port.read(R.DATA)
    assert port.read(R.IIR) == Iir.THRE
    assert port.read(R.IIR) == Iir.NONE


def test_each_rise_is_triggered_anew_once_the_last_was_acknowledged(port: Port) -> None:
    port.enable_fifo()
    port.write(R.MCR, Mcr.LOOP)
    port.read(R.MSR)
    port.write(R.IER, Ier.LINE | Ier.MODEM)
    for round_ in range(3):
        port.uart.write_burst(bytes(17))
        assert port.triggers == 2 * round_ + 1
        port.read(R.LSR)
        port.write(R.MCR, Mcr.LOOP | (0 if round_ % 2 else Mcr.RTS))
        assert port.triggers == 2 * round_ + 2
        port.read(R.MSR)


def test_enabling_an_interrupt_that_is_due_triggers_it(port: Port) -> None:
    port.uart.receive(b"x")
    assert port.triggers == 0
    port.write(R.IER, Ier.DATA)
    assert port.triggers == 1
    port.write(R.IER, Ier.DATA)
    assert port.triggers == 1

    port.write(R.IER, 0)
    port.write(R.IER, Ier.DATA)
    assert port.triggers == 2


# --- Registers


def test_the_divisor_is_behind_dlab(port: Port) -> None:
    port.write(R.LCR, Lcr.DLAB)
    port.write(R.DATA, 0x34)
    port.write(R.IER, 0x12)
    assert (port.read(R.DATA), port.read(R.IER)) == (0x34, 0x12)
    port.uart.write_burst(b"abc")
    assert port.read(R.DATA) == ord("c")

    port.write(R.LCR, 0x03)
    assert (port.read(R.DATA), port.read(R.IER), port.read(R.LCR)) == (0, 0, 0x03)
    assert port.sent == b""


def test_bits_that_the_chip_has_not_read_as_zero(port: Port) -> None:
    port.write(R.IER, 0xF0)
    port.write(R.MCR, 0xE0)

    assert (port.read(R.IER), port.read(R.MCR)) == (0, 0)


def test_status_registers_cannot_be_written(port: Port) -> None:
    port.write(R.LSR, 0xFF)
    port.write(R.MSR, 0x0F)

    assert (port.read(R.LSR), port.read(R.MSR)) == (IDLE, 0xB0)


def test_beyond_the_registers_there_is_nothing(port: Port) -> None:
    port.uart.write(8, 4, 1 << 31)

    assert port.uart.read(8, 4) == 0xFF


def test_state_is_a_copy() -> None:
    port = Port(accepts=0)
    port.enable_fifo()
    port.uart.receive(b"in")
    port.uart.write_burst(b"out")
    state = port.uart.save_state()
    other = Port()
    other.uart.restore(state)

    assert port.receive_all() == b"in"
    assert (bytes(state.received), bytes(state.unsent)) == (b"in", b"out")
    assert other.receive_all() == b"in"
    port.accepts = 9
    port.uart.drain()
    other.uart.drain()
    assert other.sent == b"out"
    assert (bytes(state.received), bytes(state.unsent)) == (b"in", b"out")


def test_restoring_triggers_nothing(port: Port) -> None:
    port.write(R.IER, Ier.DATA)
    port.uart.receive(b"x")
    other = Port()
    other.uart.restore(port.uart.save_state())

    assert other.triggers == 0
    assert other.read(R.IIR) == Iir.DATA
