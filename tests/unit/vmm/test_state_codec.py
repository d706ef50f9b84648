"""The states of devices as values, and the file that they are in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway import HostError
from slipway.vmm.devices import state_codec as saved
from slipway.vmm.devices.i8042 import I8042State
from slipway.vmm.devices.rtc import RtcState
from slipway.vmm.devices.uart import UartState
from slipway.vmm.devices.virtio_console import ConsoleState, VirtioConsole
from slipway.vmm.devices.virtio_mmio import MmioState
from slipway.vmm.devices.virtqueue import QueueState
from slipway.vmm.snapshot import canonical_msgpack as pack
from slipway.vmm.snapshot import state_file as snapshot
from slipway.vmm.snapshot.state_file import Saved

if TYPE_CHECKING:
    from collections.abc import Callable

fast = settings(deadline=None, derandomize=True, database=None, max_examples=300)
MIB = 1 << 20


def queue() -> QueueState:
    return QueueState(
        size=128, areas=(1, 2, 3), ready=True, next_available=9, next_used=8, notified=7
    )


def console() -> ConsoleState:
    queues = [queue() for _ in VirtioConsole.QUEUE_SIZES]
    return ConsoleState(transport=MmioState(status=15, postponed=5, queues=queues), sent=3)


def transport() -> MmioState:
    return MmioState(status=15, postponed=3, queues=[queue(), queue()])


def decode_transport(value: Any) -> MmioState:
    return saved.decode_transport(value, 2)


STATES: list[tuple[Callable[[Any], object], object]] = [
    (saved.decode_uart, UartState(received=bytearray(b"in"), unsent=bytearray(b"out"), mcr=8)),
    (saved.decode_keyboard, I8042State(output=7)),
    (saved.decode_clock, RtcState(index=9)),
    (saved.decode_console, console()),
    (decode_transport, transport()),
]


def some() -> Saved:
    return Saved(
        architecture="x86_64",
        memory=64 * MIB,
        cpus=2,
        port="virtio",
        network=False,
        vcpus=[{"regs": b"registers", "tsc_khz": 5}, {"regs": b"others"}],
        machine={"clock": 1},
        devices={"console": saved.encode(UartState())},
        working_set=[(0, 4096), (8192, 16384)],
    )


# --- Devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decode", "state"), STATES)
def test_state_comes_back_from_its_bytes(decode: Callable[[Any], object], state: object) -> None:
    data = pack.pack(saved.encode(state))

    assert decode(pack.unpack(data)) == state


@pytest.mark.parametrize(("decode", "state"), STATES)
@pytest.mark.parametrize("value", [None, -1, 1 << 64, b"x" * 200, "text", [], {}, [[0]] * 6, 1.5])
def test_field_out_of_its_bounds_is_refused(
    decode: Callable[[Any], object], state: object, value: object
) -> None:
    for name, right in saved.encode(state).items():
        if value is None and right is None:
            continue
        with pytest.raises(ValueError, match=r"\w"):
            decode(saved.encode(state) | {name: value})


@pytest.mark.parametrize(
    ("decode", "state", "field", "value"),
    [
        (saved.decode_uart, UartState(), "mcr", 0x20),  # beyond the table of modem lines
        (saved.decode_uart, UartState(), "received", bytes(65)),
        (saved.decode_uart, UartState(), "thre", 1),
        (saved.decode_clock, RtcState(), "index", 128),
        (saved.decode_clock, RtcState(), "cells", bytes(127)),
        (saved.decode_console, console(), "pending", 8),
        (saved.decode_console, console(), "transport", saved.encode(MmioState())),  # has no queues
        (decode_transport, transport(), "queues", saved.encode([queue()])),
        (decode_transport, transport(), "queues", saved.encode([queue()] * 3)),
    ],
)
def test_what_no_device_could_have_is_refused(
    decode: Callable[[Any], object], state: object, field: str, value: object
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        decode(saved.encode(state) | {field: value})


@pytest.mark.parametrize(("decode", "state"), STATES)
def test_state_with_a_field_too_many_or_too_few_is_refused(
    decode: Callable[[Any], object], state: object
) -> None:
    value = saved.encode(state)
    with pytest.raises(ValueError, match="fields"):
        decode(value | {"more": 1})
    value.popitem()
    with pytest.raises(ValueError, match="fields"):
        decode(value)


# --- The file -----------------------------------------------------------------------------------


def test_snapshot_comes_back_from_its_bytes() -> None:
    assert snapshot.decode(snapshot.encode(some())) == some()


@given(st.integers(0, 8 * len(snapshot.encode(some())) - 1))
@fast
def test_flipped_bit_is_noticed(bit: int) -> None:
    data = bytearray(snapshot.encode(some()))
    data[bit // 8] ^= 1 << bit % 8

    with pytest.raises(HostError):
        snapshot.decode(bytes(data))


@given(st.integers(0, len(snapshot.encode(some())) - 1))
@fast
def test_truncation_is_noticed(length: int) -> None:
    with pytest.raises(HostError):
        snapshot.decode(snapshot.encode(some())[:length])


@given(st.integers(0, 8 * len(snapshot.pack_body(some())) - 1))
@fast
def test_body_of_a_hostile_vmm_is_a_snapshot_or_refused(bit: int) -> None:
    """Its digest is right, whatever it says."""
    body = bytearray(snapshot.pack_body(some()))
    body[bit // 8] ^= 1 << bit % 8

    try:
        found = snapshot.decode(snapshot.seal(bytes(body)))
    except HostError:
        return

    assert len(found.vcpus) == found.cpus


@given(st.binary(max_size=200))
@fast
def test_any_bytes_are_refused(data: bytes) -> None:
    for attempt in (data, snapshot.seal(data)):
        with pytest.raises(HostError):
            snapshot.decode(attempt)


def test_another_version_is_told() -> None:
    data = bytearray(snapshot.encode(some()))
    data[16:20] = (snapshot.VERSION + 1).to_bytes(4, "little")

    with pytest.raises(HostError, match=f"version {snapshot.VERSION + 1}"):
        snapshot.decode(bytes(data))


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": b""},
        {"memory": 0},
        {"memory": 4097},
        {"memory": True},
        {"cpus": 0},
        {"cpus": 3},
        {"cpus": 1 << 40},
        {"port": "parallel"},
        {"port": None},
        {"network": None},
        {"vcpus": [{}, 1]},
        {"vcpus": [{}, {"regs": "text"}]},
        {"machine": []},
        {"devices": None},
        {"working_set": [[0, 4095]]},
        {"working_set": [[4096, 4096]]},
        {"working_set": [[0, 64 * MIB + 4096]]},
        {"working_set": [[8192, 12288], [0, 4096]]},
        {"working_set": [[0, 4096]] * 5000},
        {"working_set": [[0]]},
        {"more": 1},
    ],
)
def test_state_of_no_machine_is_refused(changes: dict[str, Any]) -> None:
    body = pack.pack(pack.unpack(snapshot.pack_body(some())) | changes)

    with pytest.raises(HostError, match="state is invalid"):
        snapshot.decode(snapshot.seal(body))


def test_working_set_is_put_in() -> None:
    data = snapshot.add_working_set(snapshot.encode(some()), [(8192, 12288), (0, 8192)])

    assert snapshot.decode(data).working_set == [(0, 12288)]


@pytest.mark.parametrize("ranges", [[(0, 1 << 40)], [(1, 2)]])
def test_working_set_of_another_memory_is_refused(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(HostError):
        snapshot.add_working_set(snapshot.encode(some()), ranges)


def test_file_that_is_too_long_is_not_read() -> None:
    descriptor = os.memfd_create("long")
    try:
        os.ftruncate(descriptor, snapshot.MAX_BYTES + 1)
        with pytest.raises(HostError, match="length"):
            snapshot.read(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_snapshot_of_another_architecture_is_refused_with_both_names(machine: str) -> None:
    snapshot.check_architecture(some(), "x86_64")

    with pytest.raises(HostError, match=f"a machine for x86_64, and this host is {machine}"):
        snapshot.check_architecture(some(), machine)
