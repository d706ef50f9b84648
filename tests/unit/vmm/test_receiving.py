"""A snapshot as it comes from a VMM, that may say anything at all."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway import HostError
from slipway.machine import kvm_snapshot
from slipway.vmm.process import control
from slipway.vmm.snapshot import pieces
from slipway.vmm.snapshot import state_file as snapshot
from slipway.vmm.spec import SERIAL, VIRTIO, VmConfig
from unit.vmm.test_state_codec import some

if TYPE_CHECKING:
    from collections.abc import Sequence

fast = settings(deadline=None, derandomize=True, database=None, max_examples=60)
MIB = 1 << 20
CONFIG = VmConfig(64 * MIB, 2, VIRTIO)
SAVED = control.encode(control.SAVED)


def piece(kind: int, start: int, data: bytes) -> bytes:
    return pieces.PIECE.pack(kind, start) + data


def body() -> bytes:
    return snapshot.pack_body(some())


def state() -> bytes:
    return piece(pieces.OF_STATE, 0, body())


async def receive(
    messages: Sequence[bytes], heard: list[bytes] | None = None, config: VmConfig = CONFIG
) -> tuple[int, int]:
    ours, theirs = control.create_pair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        for message in messages:
            theirs.send(message)
        theirs.close()
        return await kvm_snapshot.receive_snapshot(
            ours, config, (heard if heard is not None else []).append
        )


async def test_files_are_what_was_sent() -> None:
    sent = [piece(pieces.OF_MEMORY, 4096, b"a" * 4096), piece(pieces.OF_MEMORY, MIB, b"b")]

    memory, found = await receive([*sent, state(), SAVED])

    assert os.fstat(memory).st_size == CONFIG.memory_bytes
    assert os.pread(memory, 4097, 4095) == b"\0" + b"a" * 4096
    assert os.pread(memory, 2, MIB) == b"b\0"
    assert snapshot.decode(snapshot.read(found)) == some()
    os.close(memory)
    os.close(found)


@pytest.mark.parametrize(
    "messages",
    [
        [state()],
        [SAVED],
        [piece(pieces.OF_MEMORY, CONFIG.memory_bytes, b"x"), state(), SAVED],
        [piece(pieces.OF_MEMORY, CONFIG.memory_bytes - 1, b"xx"), state(), SAVED],
        [piece(pieces.OF_MEMORY, (1 << 64) - 1, b"x"), state(), SAVED],
        [piece(pieces.OF_MEMORY, 4096, b"x"), piece(pieces.OF_MEMORY, 0, b"x"), state(), SAVED],
        [piece(pieces.OF_MEMORY, 0, b""), state(), SAVED],
        [b"\0", state(), SAVED],
        [piece(pieces.OF_STATE, 1, body()), SAVED],
        [piece(pieces.OF_STATE, 0, body()[1:]), SAVED],
        [piece(2, 0, b"x"), state(), SAVED],
        [state(), control.encode(control.REFUSED, message="no")],
        [control.encode(control.ENDED, text="over")],
        [],
    ],
)
async def test_nonsense_is_refused_and_leaves_nothing(messages: list[bytes]) -> None:
    before = psutil.Process().num_fds()

    with pytest.raises(HostError):
        await receive(messages)

    assert psutil.Process().num_fds() == before


@given(st.lists(st.binary(max_size=100), max_size=8))
@fast
async def test_any_messages_are_refused(messages: list[bytes]) -> None:
    with pytest.raises(HostError):
        await receive(messages)


async def test_state_of_another_machine_is_refused() -> None:
    for config in (
        VmConfig(64 * MIB, 1, VIRTIO),
        VmConfig(64 * MIB, 2, SERIAL),
        VmConfig(64 * MIB, 2, VIRTIO, True),
    ):
        with pytest.raises(HostError, match="an invalid snapshot of its machine"):
            await receive([state(), SAVED], config=config)


async def test_state_that_goes_on_for_ever_is_refused() -> None:
    ours, theirs = control.create_pair()
    with ours, theirs:
        receiver = kvm_snapshot.SnapshotReceiver(ours, MIB)
        whole = range(0, snapshot.MAX_BYTES, MIB)
        for start in whole:
            receiver.store_piece(pieces.OF_STATE, start, memoryview(bytes(MIB)))
        with pytest.raises(HostError):
            receiver.store_piece(pieces.OF_STATE, snapshot.MAX_BYTES, memoryview(b"x"))
        os.close(receiver.memory)


async def test_what_the_vmm_says_instead_is_heard() -> None:
    heard: list[bytes] = []
    message = control.encode(control.ENDED, text="over")

    with suppress(HostError):
        await receive([message], heard)

    assert heard == [message]


async def test_refusal_is_told_without_control_characters() -> None:
    refusal = control.encode(control.REFUSED, message="not \x1b[31mnow", hint="later")

    with pytest.raises(HostError, match="not") as caught:
        await receive([refusal])

    assert "\x1b" not in caught.value.message
    assert caught.value.hint == "later"


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("0-1000 2000-3000", [(0, 0x1000), (0x2000, 0x3000)]),
        ("", []),
        ("0-1000 x", []),
        ("0-1000 1000-0", []),
        ("0-ffffffffffffffffff", []),
        ("-5-1000", []),
        ("0-1000 " * 10**5, [(0, 0x1000)] * snapshot.MAX_RANGES),
    ],
)
def test_ranges_are_within_the_memory_or_none(text: str, ranges: list[tuple[int, int]]) -> None:
    assert kvm_snapshot.parse_ranges(text, MIB) == ranges
