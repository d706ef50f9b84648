"""A vCPU's ring of coalesced writes, and what its thread makes of KVM's exits; without KVM."""

from __future__ import annotations

import errno
import os
import queue
import struct
import threading
from contextlib import closing
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slipway.vmm.bus import Bus
from slipway.vmm.kvm import abi
from slipway.vmm.kvm.abi import ExitReason
from slipway.vmm.kvm.vcpu import Vcpu
from slipway.vmm.vcpu_thread import Ending, VcpuThread
from support.bare_metal import PATIENCE, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RING_PAGE, DATA_PAGE = 2, 1
COM1, COM2, REGISTER = 0x3F8, 0x2F8, 0xD000_0000
ROOM = abi.RING_ENTRIES - 1
Write = tuple[int, bytes]

PLACES = st.sampled_from([COM1, COM1, COM1, COM2, REGISTER])
DATA = st.binary(min_size=1, max_size=1) | st.binary(min_size=1, max_size=1).flatmap(
    lambda byte: st.sampled_from([byte, byte * 2, byte * 4, byte * 8])
)
# As guests do it: some bytes to one place, then some to another.
RUNS = st.tuples(PLACES, st.lists(DATA, max_size=70)).map(
    lambda run: [(run[0], data) for data in run[1]]
)
WRITES = st.lists(RUNS, max_size=12).map(lambda runs: [w for run in runs for w in run][:ROOM])


class FakeVcpu(Vcpu):
    """A vCPU whose run page is a file's, with scripted exits."""

    __slots__ = ("_script",)

    def __init__(self, script: Iterable[Callable[[FakeVcpu], int]] = ()) -> None:
        size = (RING_PAGE + 1) * abi.PAGE_SIZE
        descriptor = os.memfd_create("run page")
        os.truncate(descriptor, size)
        super().__init__(descriptor, 0, size, RING_PAGE)
        self._script = iter(script)

    def run(self) -> int:
        reason = next(self._script)(self)
        self.page[abi.EXIT_REASON_OFFSET] = reason
        return reason

    def put(self, offset: int, data: bytes) -> None:
        self.page[offset : offset + len(data)] = data

    def coalesce(self, writes: Iterable[Write]) -> None:
        """What KVM does (coalesced_mmio_write); there has to be room."""
        ring = RING_PAGE * abi.PAGE_SIZE
        for address, data in writes:
            first, last = struct.unpack_from("<II", self.page, ring)
            assert (last + 1) % abi.RING_ENTRIES != first
            is_port = address < 0x1_0000
            entry = struct.pack("<QII8s", address, len(data), is_port, data)
            self.put(ring + 8 + last * 24, entry)
            struct.pack_into("<I", self.page, ring + 4, (last + 1) % abi.RING_ENTRIES)


@pytest.fixture
def vcpu() -> Iterator[FakeVcpu]:
    with closing(FakeVcpu()) as vcpu:
        yield vcpu


# --- The ring -----------------------------------------------------------------------------------


def join_neighbours(writes: Iterable[Write]) -> list[Write]:
    """Neighbours at one place as one; what is wider than a byte stays by itself, as it was."""
    result: list[Write] = []
    for (address, narrow), group in groupby(writes, lambda w: (w[0], len(w[1]) == 1)):
        parts = [data for _, data in group]
        result += [(address, b"".join(parts))] if narrow else [(address, data) for data in parts]
    return result


def test_ring_that_is_empty_gives_nothing(vcpu: FakeVcpu) -> None:
    assert vcpu.take_coalesced() == []


@given(st.integers(0, ROOM), st.lists(WRITES, min_size=1, max_size=4))
@settings(deadline=None, derandomize=True, database=None, max_examples=300)
@example(0, [[(COM1, b"x")] * ROOM] * 3)
@example(ROOM, [[(COM1, b"x")] * ROOM])
@example(100, [[(COM1, b"a"), (COM2, b"b")] * (ROOM // 2)])
def test_ring_gives_all_writes_in_their_order(start: int, rounds: list[list[Write]]) -> None:
    with closing(FakeVcpu()) as vcpu:
        struct.pack_into("<II", vcpu.page, RING_PAGE * abi.PAGE_SIZE, start, start)
        for writes in rounds:
            vcpu.coalesce(writes)
            taken = vcpu.take_coalesced()

            # At the ring's end a run may be in two parts, which its device cannot tell.
            assert join_neighbours(taken_apart(taken, writes)) == join_neighbours(writes)
            assert len(taken) <= len(join_neighbours(writes)) + 1
            assert vcpu.take_coalesced() == []


def taken_apart(taken: list[Write], writes: list[Write]) -> list[Write]:
    """``taken`` as it was before neighbours were joined."""
    wide = iter([len(data) > 1 for _, data in writes])
    apart: list[Write] = []
    for address, data in taken:
        if next(wide):
            apart.append((address, data))
        else:
            apart += [(address, bytes((value,))) for value in data]
            for _ in data[1:]:
                assert not next(wide)
    return apart


def test_fifo_of_bytes_is_one_write(vcpu: FakeVcpu) -> None:
    vcpu.coalesce([(COM1, bytes((number,))) for number in range(64)])

    assert vcpu.take_coalesced() == [(COM1, bytes(range(64)))]


# --- The loop -----------------------------------------------------------------------------------


def run_script(*script: Callable[[FakeVcpu], int], bus: Bus | None = None) -> Ending:
    """How a thread ends whose vCPU has these exits."""
    endings: queue.Queue[Ending] = queue.Queue()
    with closing(FakeVcpu(script)) as vcpu:
        thread = VcpuThread(vcpu, bus or Bus(), threading.Lock(), endings.put)
        thread.start()
        ending = endings.get(timeout=PATIENCE)
        thread.stop()
        assert endings.empty()
    return ending


def exit_with(reason: int, data: bytes = b"") -> Callable[[FakeVcpu], int]:
    def happen(vcpu: FakeVcpu) -> int:
        vcpu.put(abi.EXIT_UNION_OFFSET, data)
        return reason

    return happen


def fail_with(number: int) -> Callable[[FakeVcpu], int]:
    def happen(vcpu: FakeVcpu) -> int:
        raise OSError(number, os.strerror(number))

    return happen


def io(direction: int, size: int, port: int, data: bytes) -> Callable[[FakeVcpu], int]:
    def happen(vcpu: FakeVcpu) -> int:
        offset = DATA_PAGE * abi.PAGE_SIZE
        count = len(data) // size
        vcpu.put(abi.EXIT_UNION_OFFSET, abi.EXIT_IO.pack(direction, size, port, count, offset))
        vcpu.put(offset, data)
        return ExitReason.IO

    return happen


HALT = exit_with(ExitReason.HLT)


@pytest.mark.parametrize(
    ("script", "text", "wanted"),
    [
        (HALT, "the guest halted, and nothing can wake it", False),
        (exit_with(ExitReason.SHUTDOWN), "the guest crashed: a triple fault", False),
        (
            exit_with(ExitReason.FAIL_ENTRY, abi.EXIT_FAIL_ENTRY.pack(0x8000_0021)),
            "the processor refuses the guest's state (reason 0x80000021)",
            False,
        ),
        (
            exit_with(ExitReason.INTERNAL_ERROR, abi.EXIT_INTERNAL.pack(3, 0)),
            "KVM cannot run an instruction of the guest's (internal error: delivery_ev)",
            False,
        ),
        (
            exit_with(ExitReason.INTERNAL_ERROR, abi.EXIT_INTERNAL.pack(77, 0)),
            "KVM cannot run an instruction of the guest's (internal error: 77)",
            False,
        ),
        (
            exit_with(ExitReason.SYSTEM_EVENT, abi.EXIT_SYSTEM_EVENT.pack(1)),
            "the guest ended by itself",
            True,
        ),
        (
            exit_with(ExitReason.SYSTEM_EVENT, abi.EXIT_SYSTEM_EVENT.pack(2)),
            "the guest ended by itself",
            True,
        ),
        (
            exit_with(ExitReason.SYSTEM_EVENT, abi.EXIT_SYSTEM_EVENT.pack(3)),
            "the guest's kernel reported a crash",
            False,
        ),
        (
            exit_with(ExitReason.DEBUG),
            "an exit that this machine does not support: DEBUG (4)",
            False,
        ),
        (exit_with(99), "an exit that this machine does not support: unknown (99)", False),
        (fail_with(errno.EFAULT), "KVM_RUN failed: Bad address", False),
        (fail_with(errno.EINVAL), "KVM_RUN failed: Invalid argument", False),
        (
            fail_with(errno.ENOSYS),
            "KVM cannot run an instruction of the guest's: it is not one that reads or writes"
            " a single register of a device",
            False,
        ),
    ],
    ids=lambda value: value.replace(" ", "-")[:40] if isinstance(value, str) else "",
)
def test_end_is_told_in_words(script: Callable[[FakeVcpu], int], text: str, wanted: bool) -> None:
    ending = run_script(script)

    assert (ending.text, ending.wanted) == (text, wanted)


@pytest.mark.parametrize(
    "script",
    [
        exit_with(ExitReason.INTR),
        exit_with(ExitReason.IRQ_WINDOW_OPEN),
        fail_with(errno.EAGAIN),
        fail_with(errno.EINTR),
    ],
    ids=["interrupt", "interrupt window", "started", "signal"],
)
def test_exit_that_means_nothing_is_no_end(script: Callable[[FakeVcpu], int]) -> None:
    assert "halted" in run_script(script, script, HALT).text


@pytest.mark.parametrize("size", [1, 2, 4])
def test_string_is_given_unit_by_unit(size: int) -> None:
    bus, device = Bus(), Recorder()
    bus.add_port(COM1, 4, device)
    data = bytes(range(3 * size))

    run_script(io(1, size, COM1, data), HALT, bus=bus)

    assert bytes(device.written) == data


@pytest.mark.parametrize("size", [1, 2, 4])
def test_string_is_taken_unit_by_unit(size: int) -> None:
    bus, wanted = Bus(), bytes(range(1, 1 + 3 * size))
    bus.add_port(COM1, 4, Recorder(wanted))
    got: list[bytes] = []

    def look(vcpu: FakeVcpu) -> int:
        got.append(bytes(vcpu.page[abi.PAGE_SIZE : abi.PAGE_SIZE + len(wanted)]))
        return ExitReason.HLT

    run_script(io(0, size, COM1, bytes(len(wanted))), look, bus=bus)

    assert got == [wanted]


def test_ring_is_emptied_before_the_exit_that_it_came_with() -> None:
    bus, seen = Bus(), Recorder()
    bus.add_port(COM1, 8, seen)
    bus.add_burst(COM1, lambda data: seen.write(0, len(data), int.from_bytes(data, "little")))

    def happen(vcpu: FakeVcpu) -> int:
        vcpu.coalesce([(COM1, b"\1"), (COM1, b"\2")])
        return io(1, 1, COM1 + 1, b"\3")(vcpu)

    run_script(happen, HALT, bus=bus)

    assert seen.seen == [("write", 0, 2, 0x0201), ("write", 1, 1, 3)]
