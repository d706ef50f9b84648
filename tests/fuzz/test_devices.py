"""The legacy devices under whatever a guest and a host may do to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from slipway.vmm.devices.i8042 import I8042
from slipway.vmm.devices.rtc import Rtc
from slipway.vmm.devices.uart import Uart
from support.uart_registers import Fcr, Ier, Iir, Lcr, Lsr, Mcr, Register

if TYPE_CHECKING:
    from slipway.vmm.devices.model import Device

R = Register
SIZES = st.sampled_from([1, 1, 1, 2, 4, 8])
REGISTERS = st.integers(0, 7) | st.integers(0, 9)
# Random bytes alone would seldom leave the loop or DLAB again.
VALUES = (
    st.integers(0, 0xFF)
    | st.sampled_from([0, 3, Lcr.DLAB, Mcr.LOOP, Fcr.ENABLE, Fcr.ENABLE | Fcr.WIDE, 0x0F])
    | st.integers(0, (1 << 64) - 1)
)
READS = st.tuples(st.just("read"), REGISTERS, SIZES)
WRITES = st.tuples(st.just("write"), REGISTERS, SIZES, VALUES)


@dataclass
class Host:
    """The host's end of a line, and what a port has done to it."""

    accepts: int = 0
    offered: bytearray = field(default_factory=bytearray)  # to the guest when there is room
    log: list[object] = field(default_factory=list)
    triggers: int = 0

    def __post_init__(self) -> None:
        self.uart = Uart(self._trigger, self)

    def _trigger(self) -> None:
        self.triggers += 1
        self.log.append("trigger")

    def send(self, data: bytes | memoryview) -> int:
        assert data
        taken = data[: self.accepts]
        self.accepts -= len(taken)
        self.log.append(taken)
        return len(taken)

    def can_receive(self) -> None:
        self.log.append("room")
        self.give()

    def give(self) -> None:
        del self.offered[: self.uart.receive(bytes(self.offered))]

    def act(self, action: str, *arguments: int | bytes) -> None:
        """One access of the guest or one act of the host; what came of it is logged."""
        uart = self.uart
        match action, arguments:
            case "read", (int(offset), int(size)):
                value = uart.read(offset, size)
                assert 0 <= value <= 0xFF
                self.log.append(value)
            case "write", (int(offset), int(size), int(value)):
                uart.write(offset, size, value)
            case "burst", (bytes(data),):
                uart.write_burst(data)
            case "receive", (bytes(data),):
                taken = uart.receive(data)
                assert 0 <= taken <= len(data)
                self.log.append(taken)
            case "offer", (bytes(data),):
                self.offered += data
                self.give()
            case "accept", (int(count),):
                self.accepts = count
                uart.drain()
            case _:
                raise AssertionError(action)


TRAFFIC = st.lists(
    READS
    | WRITES
    | st.tuples(st.just("burst"), st.binary(min_size=1, max_size=170))
    | st.tuples(st.just("receive"), st.binary(max_size=80))
    | st.tuples(st.just("offer"), st.binary(max_size=80))
    | st.tuples(st.just("accept"), st.integers(0, 200)),
    max_size=60,
)


def copy_of(host: Host) -> Host:
    copy = Host(host.accepts, host.offered.copy())
    copy.uart.restore(host.uart.save_state())
    return copy


def is_pending(host: Host) -> bool:
    """Whether the IIR would say so, found out without reading it."""
    return not copy_of(host).uart.read(R.IIR, 1) & Iir.NONE


@given(traffic=TRAFFIC)
def test_uart_stays_bounded_and_triggers_once_for_each_rise(
    traffic: list[tuple[str, int | bytes]],
) -> None:
    host = Host()
    for act in traffic:
        pending, triggers = is_pending(host), host.triggers
        host.act(*act)

        rose = is_pending(host) and not pending
        assert host.triggers - triggers == rose
        state = host.uart.save_state()
        size = {0: 1, 1: 16, 0x21: 64}[state.fcr & 0x21]
        assert len(state.received) <= size
        assert len(state.unsent) <= size
        assert max(state.ier, state.fcr, state.errors) <= 0xFF


@given(before=TRAFFIC, after=TRAFFIC)
def test_restored_uart_goes_on_like_the_first(
    before: list[tuple[str, int | bytes]], after: list[tuple[str, int | bytes]]
) -> None:
    first = Host()
    for act in before:
        first.act(*act)
    second = copy_of(first)
    first.log.clear()

    for act in after:
        first.act(*act)
        second.act(*act)

    assert first.log == second.log
    assert first.uart.save_state() == second.uart.save_state()


class Guest:
    """A driver that only does something when it is interrupted, as Linux does."""

    def __init__(self, uart: Uart, fcr: int, output: bytes) -> None:
        self.uart = uart
        self.output = output
        self.input = bytearray()
        uart.write(R.LCR, 1, Lcr.DLAB)
        uart.write(R.IIR, 1, fcr)
        uart.write(R.LCR, 1, 0x03)
        wide = fcr & (Fcr.ENABLE | Fcr.WIDE) == Fcr.ENABLE | Fcr.WIDE
        self.load = 64 if wide else 16 if fcr & Fcr.ENABLE else 1

    def start(self) -> None:
        self.uart.write(R.IER, 1, Ier.DATA | Ier.LINE | Ier.THRE)

    def handle_interrupt(self, burst: bool) -> None:
        uart = self.uart
        while not uart.read(R.IIR, 1) & Iir.NONE:
            status = uart.read(R.LSR, 1)
            while status & Lsr.READY:
                self.input.append(uart.read(R.DATA, 1))
                status = uart.read(R.LSR, 1)
            uart.read(R.MSR, 1)
            if status & Lsr.THRE and self.output:
                now, self.output = self.output[: self.load], self.output[self.load :]
                if burst:
                    uart.write_burst(now)
                else:
                    for value in now:
                        uart.write(R.DATA, 1, value)
            elif status & Lsr.THRE:
                uart.write(R.IER, 1, Ier.DATA | Ier.LINE)


@given(
    fcr=st.sampled_from([0, Fcr.ENABLE, Fcr.ENABLE | 0xC0, Fcr.ENABLE | Fcr.WIDE | 0x80]),
    output=st.binary(max_size=300),
    stream=st.binary(max_size=300),
    steps=st.lists(
        st.tuples(st.sampled_from(["accept", "offer", "interrupt"]), st.integers(0, 80)),
        max_size=60,
    ),
    burst=st.booleans(),
)
def test_streams_pass_the_uart_whole_for_a_driver_that_waits_for_interrupts(
    fcr: int, output: bytes, stream: bytes, steps: list[tuple[str, int]], burst: bool
) -> None:
    host = Host()
    guest = Guest(host.uart, fcr, output)
    guest.start()
    served, given_so_far = 0, 0
    # In the end the host takes and gives all: nobody may be left waiting.
    steps = [*steps, ("offer", len(stream)), ("interrupt", 0)]
    for _ in range(len(output) + 2):
        steps += [("accept", 1000), ("interrupt", 0)]
    for step, count in steps:
        if step == "accept":
            host.act("accept", count)
        elif step == "offer":
            host.act("offer", stream[given_so_far : given_so_far + count])
            given_so_far += count
        elif host.triggers > served:
            served = host.triggers
            guest.handle_interrupt(burst)

    sent = b"".join(entry for entry in host.log if isinstance(entry, bytes))
    assert sent == output
    assert guest.input == stream
    assert host.uart.counters.dropped == host.uart.counters.overruns == 0


CALM = st.lists(READS | WRITES, max_size=80)


def run(device: Device, traffic: list[tuple[str, int]]) -> list[int]:
    values = []
    for action, *arguments in traffic:
        if action == "read":
            offset, size = arguments
            values.append(device.read(offset, size))
        else:
            offset, size, value = arguments
            device.write(offset, size, value)
    assert all(0 <= value <= 0xFF for value in values)
    return values


@given(before=CALM, after=CALM)
def test_i8042_bears_anything_and_goes_on_after_a_restore(
    before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    resets = [0, 0]

    def controller(which: int) -> I8042:
        def reset() -> None:
            resets[which] += 1

        return I8042(reset)

    first, second = controller(0), controller(1)
    run(first, before)
    resets[0] = 0
    second.restore(first.save_state())

    assert run(first, after) == run(second, after)
    assert resets[0] == resets[1]
    assert first.save_state() == second.save_state()


@given(before=CALM, after=CALM, seconds=st.floats(-1e9, 1e11))
def test_rtc_bears_anything_and_goes_on_after_a_restore(
    before: list[tuple[str, int]], after: list[tuple[str, int]], seconds: float
) -> None:
    first, second = Rtc(lambda: seconds), Rtc(lambda: seconds)
    run(first, before)
    second.restore(first.save_state())

    assert run(first, after) == run(second, after)
    assert first.save_state() == second.save_state()
    assert len(first.save_state().cells) == 128
