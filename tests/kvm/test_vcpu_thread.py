"""A vCPU's thread: it stands still, goes on and ends when it is told to, at whatever moment."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from slipway.vmm.kvm.abi import ExitReason
from slipway.vmm.vcpu_thread import KICK, VcpuThread
from support.bare_metal import BareMetal, Recorder
from support.guest_code import DATA, IS_ARM, Code
from support.waiting import block_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvm.conftest import Bare

PORT, DEVICE = 0x10, 0xD000_0000
ENDLESS = 1 << 40


class Clock:
    """Another guest that counts: time that passes for guests, however slow they are."""

    def __init__(self, bare: Bare) -> None:
        self._machine = bare(Code().spin()).start()

    def tick(self, count: int = 1000) -> None:
        goal = self._machine.number() + count
        block_until(lambda: self._machine.number() >= goal, "the other guest has counted that far")


@pytest.fixture
def clock(bare: Bare) -> Clock:
    return Clock(bare)


def going(machine: BareMetal) -> None:
    """Wait until the guest has counted on."""
    before = machine.number()
    block_until(lambda: machine.number() > before, "the guest has counted on")


# --- Pause and resume ---------------------------------------------------------------------------


def test_guest_that_has_no_exits_stands_still_while_paused(bare: Bare, clock: Clock) -> None:
    machine = bare(Code().spin()).start()
    for _ in range(3):
        going(machine)

        machine.thread.pause()

        stood = machine.number()
        clock.tick()
        assert machine.number() == stood
        machine.thread.resume()
    going(machine)


def test_guest_between_two_exits_stands_still_while_paused(bare: Bare, clock: Clock) -> None:
    machine = bare(Code().label("again").out(PORT, 0).jump("again"))
    device = Recorder()
    machine.add_port(PORT, 1, device)
    machine.start()
    for _ in range(3):
        device.seen.clear()
        block_until(lambda: device.seen, "the device was written to")

        machine.thread.pause()

        stood = len(device.seen)
        clock.tick()
        assert len(device.seen) == stood
        machine.thread.resume()


@pytest.mark.parametrize("verb", [Code.out_string] if IS_ARM else [Code.out_string, Code.in_string])
def test_guest_in_an_endless_string_instruction_can_be_paused(
    bare: Bare, clock: Clock, verb: Callable[[Code, int, int, int], Code]
) -> None:
    machine = bare(verb(Code(), PORT, DATA, ENDLESS).end_test())
    device = Recorder()
    machine.add_port(PORT, 1, device)
    machine.start()
    block_until(lambda: device.seen, "the device was written to")

    machine.thread.pause()

    stood = len(device.seen)
    clock.tick()
    assert len(device.seen) == stood


def test_guest_that_is_paused_before_it_starts_waits(bare: Bare, clock: Clock) -> None:
    machine = bare(Code().spin())
    machine.thread.pause()

    machine.start()

    clock.tick()
    assert machine.number() == 0
    machine.thread.resume()
    going(machine)


def test_pause_and_resume_twice_are_as_once(bare: Bare) -> None:
    machine = bare(Code().spin()).start()
    machine.thread.pause()
    machine.thread.pause()
    machine.thread.resume()
    machine.thread.resume()

    going(machine)


def test_pause_that_follows_a_resume_at_once_holds(bare: Bare, clock: Clock) -> None:
    machine = bare(Code().spin()).start()
    for _ in range(50):
        machine.thread.pause()
        machine.thread.resume()
        machine.thread.pause()
        stood = machine.number()
        clock.tick(10)
        assert machine.number() == stood
        machine.thread.resume()


def test_pause_at_any_moment_loses_nothing_and_doubles_nothing(bare: Bare) -> None:
    """The guest writes 1, 2, 3, ..., and adds up what it reads, which is the same."""
    machine = bare(Code().exchange_for_ever(DEVICE))
    device = Recorder(range(1, 1 << 30))
    machine.bus.add_memory(DEVICE, 8, device)
    delays = random.Random(4711)
    machine.start()

    for _ in range(200):
        time.sleep(delays.uniform(0, 0.002))
        machine.thread.pause()
        time.sleep(delays.choice((0, 0, 0.001)))
        machine.thread.resume()
    machine.thread.pause()

    assert machine.endings == []
    reads = [value for verb, *_, value in device.seen if verb == "read"]
    assert device.written == list(range(1, len(device.written) + 1))
    assert len(device.written) - len(reads) in {0, 1}
    # The last read is complete once the vCPU has been in KVM again; the sum comes after it.
    assert machine.number() in {sum(reads), sum(reads[:-1])}


def test_kick_that_means_nothing_is_ignored(bare: Bare) -> None:
    machine = bare(Code().spin()).start()
    (ident,) = [thread.ident for thread in threading.enumerate() if thread.name == "vcpu0"]
    assert ident is not None

    for _ in range(100):
        signal.pthread_kill(ident, KICK)
        os.kill(os.getpid(), KICK)
        going(machine)

    assert machine.endings == []


# --- Stop ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [Code().spin(), Code().halt()], ids=["spins", "halts"])
def test_guest_without_an_end_is_stopped_at_any_moment(bare: Bare, code: Code) -> None:
    machine = bare(code)
    for number in range(100):
        thread = VcpuThread(machine.vcpu, machine.bus, machine.lock, machine.end)
        thread.start()
        time.sleep(number % 10 * 0.0001)

        thread.stop()

        assert "vcpu0" not in {thread.name for thread in threading.enumerate()}
    assert machine.endings == []


@pytest.mark.parametrize("code", [Code().crash(), Code().end_test()], ids=["crashes", "is done"])
def test_guest_with_an_end_is_stopped_at_any_moment(code: Code) -> None:
    for number in range(20):
        with closing(BareMetal(code)) as machine:
            machine.start()
            time.sleep(number * 0.00005)

            machine.thread.stop()

            assert "vcpu0" not in {thread.name for thread in threading.enumerate()}
            assert len(machine.endings) <= 1


def test_stop_before_the_start_is_for_good(bare: Bare) -> None:
    machine = bare(Code().spin())
    machine.thread.stop()

    machine.start()
    machine.thread.stop()

    assert machine.number() == 0
    assert machine.endings == []


def test_stop_ends_what_is_paused(bare: Bare) -> None:
    machine = bare(Code().spin()).start()
    machine.thread.pause()
    stood = machine.number()

    machine.thread.stop()

    assert machine.number() == stood
    assert machine.endings == []


def test_thread_that_has_ended_takes_all_that_it_is_told(bare: Bare) -> None:
    machine = bare(Code().crash())
    machine.run()

    machine.thread.pause()
    machine.thread.resume()
    machine.thread.stop()

    assert len(machine.endings) == 1


# --- Faults -------------------------------------------------------------------------------------


# A port of aarch64 is an address, and its value is encoded like that of one.
WRONG_PORT_VALUE = "OverflowError" if IS_ARM else "ValueError: mmap item value"


class Broken(Recorder):
    def read(self, offset: int, size: int) -> int:
        return 1 << 8 * size  # one too many

    def write(self, offset: int, size: int, value: int) -> None:
        raise ValueError("out of order")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code().store(DEVICE, 1).end_test(), "ValueError: out of order"),
        (Code().load(DEVICE).end_test(), "OverflowError"),
        (Code().out(PORT, 1).end_test(), "ValueError: out of order"),
        (Code().read_port(PORT).end_test(), WRONG_PORT_VALUE),
    ],
    ids=["write to memory", "read of memory", "write to a port", "read of a port"],
)
def test_fault_of_a_device_is_an_end_and_no_hang(bare: Bare, code: Code, reason: str) -> None:
    machine, device = bare(code), Broken()
    machine.bus.add_memory(DEVICE, 8, device)
    machine.add_port(PORT, 1, device)

    ending = machine.run()

    assert ending.text.startswith(f"a fault of the VMM's own: {reason}")
    assert not ending.wanted
    assert machine.lock.acquire(blocking=False)


def test_fault_with_coalesced_writes_is_an_end_and_no_hang(bare: Bare) -> None:
    machine = bare(Code().out(PORT, 1).end_test())
    machine.coalesce(PORT, lambda data: Broken().write(0, 1, data[0]))

    assert "out of order" in machine.run().text


def test_each_exit_is_counted_by_its_reason(bare: Bare) -> None:
    machine = bare(Code().out(PORT, 1).load(DEVICE).load(DEVICE).end_test())

    machine.run()

    # aarch64 has no ports but in memory.
    ports = ExitReason.MMIO if IS_ARM else ExitReason.IO
    assert machine.thread.exits == Counter([ports, ports, ExitReason.MMIO, ExitReason.MMIO])
