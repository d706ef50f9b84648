"""Snapshots of a kvm machine around a kernel of a few instructions, and clones of them."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from kvm.test_machine import LSR, console
from slipway import HostError
from slipway.machine.kvm import KvmMachine
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import PortKind
from slipway.vmm.snapshot import state_file as states
from support.bare_metal import PATIENCE
from support.guest_code import COM1, COM2, DATA, IS_ARM, RAM, Code

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kvm.conftest import Boot
    from slipway.machine.kvm_template import KvmTemplate
    from slipway.machine.model import Snapshot


def counter() -> Code:
    """Answers each byte on the second serial port with how many have come; resets after a NUL."""
    code = Code().text(COM1, b"ready\n").store(DATA, 0)
    code.label("next").wait_for_byte(COM2).read_port(COM2).keep()
    code.count().load(DATA, 1).out(COM2).read_port(COM2 + LSR).jump_unless_kept_zero("next")
    return code.reset()


async def ask(machine: KvmMachine, byte: bytes = b"x") -> int:
    machine.transport.writer.write(byte)
    async with asyncio.timeout(PATIENCE):
        return (await machine.transport.reader.readexactly(1))[0]


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children(recursive=True)]


@pytest.fixture
async def snapshot(boot: Boot) -> AsyncIterator[Snapshot]:
    """Of a counter that has counted to two, and that is no more."""
    machine = await boot(counter(), port=PortKind.SERIAL)
    await ask(machine)
    await ask(machine)
    snapshot = await machine.snapshot()
    await machine.stop()
    yield snapshot
    snapshot.close()


@asynccontextmanager
async def open_template(snapshot: Snapshot) -> AsyncIterator[KvmTemplate]:
    template = await KvmHypervisor().open_template(snapshot.duplicate())
    try:
        yield template
    finally:
        await template.close()


@asynccontextmanager
async def clone_of(template: KvmTemplate) -> AsyncIterator[KvmMachine]:
    machine = await template.clone()
    try:
        yield machine
    finally:
        await machine.stop()


async def test_clones_go_on_where_the_snapshot_was_taken_each_by_itself(
    snapshot: Snapshot,
) -> None:
    async with (
        open_template(snapshot) as template,
        clone_of(template) as one,
        clone_of(template) as other,
    ):
        counts = [await ask(one), await ask(one), await ask(other), await ask(one)]

    assert counts == [3, 4, 3, 5]


async def test_clone_keeps_the_port_that_its_agent_has_taken(boot: Boot) -> None:
    machine = await boot(counter(), port=PortKind.AUTO)
    await machine.take_port(PortKind.SERIAL)
    await ask(machine)

    with await machine.snapshot() as snapshot:
        await machine.stop()
        assert snapshot.agent_port is PortKind.SERIAL
        async with open_template(snapshot) as template, clone_of(template) as clone:
            assert clone.port is PortKind.SERIAL
            assert await ask(clone) == 2


async def test_clone_ends_as_its_guest_wants(snapshot: Snapshot) -> None:
    async with open_template(snapshot) as template, clone_of(template) as clone:
        assert await ask(clone, b"\0") == 3

        assert await clone.wait() == 0
        assert await clone.read_exit_report() == ""


async def test_guest_goes_on_after_a_snapshot_of_it(boot: Boot) -> None:
    machine = await boot(counter(), port=PortKind.SERIAL)
    await ask(machine)

    (await machine.snapshot()).close()
    await machine.resume()

    assert await ask(machine) == 2


async def test_clone_is_snapshotted_itself(snapshot: Snapshot) -> None:
    async with open_template(snapshot) as template, clone_of(template) as clone:
        await ask(clone)
        fork = await clone.snapshot()
        await clone.resume()
        async with open_template(fork) as second, clone_of(second) as forked:
            counts = [await ask(clone), await ask(clone), await ask(forked)]
        fork.close()

    assert counts == [4, 5, 4]


async def test_snapshot_is_sealed_and_has_holes(snapshot: Snapshot) -> None:
    size = os.fstat(snapshot.memory)

    assert size.st_size == snapshot.memory_bytes
    assert size.st_blocks * 512 < snapshot.memory_bytes / 16
    for descriptor in (snapshot.memory, snapshot.state):
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)


async def test_clone_tells_what_it_wrote_to_and_has_that_at_once(snapshot: Snapshot) -> None:
    async with open_template(snapshot) as template, clone_of(template) as clone:
        await ask(clone)
        ranges = await clone.read_working_set()
        again = await clone.read_working_set()
    prepared = KvmMachine.add_working_set(snapshot.duplicate(), ranges)
    async with open_template(prepared) as template, clone_of(template) as clone:
        prefaulted = await clone.read_working_set()
        count = await ask(clone)
    prepared.close()

    place = DATA - RAM  # ranges are those of the snapshot's memory
    assert (place, place + 4096) in ranges
    assert again == []
    assert set(ranges) <= set(prefaulted)
    assert count == 3


async def test_snapshot_waits_for_no_byte_that_the_guest_has_not_taken(boot: Boot) -> None:
    machine = await boot(Code().text(COM1, b"deaf").halt(), port=PortKind.SERIAL)
    await console(machine, "deaf")
    machine.transport.writer.write(bytes(100))  # more than its port takes
    await asyncio.sleep(0.1)

    with pytest.raises(HostError, match="on their way"):
        await machine.snapshot()


async def test_machine_that_has_ended_has_no_snapshot(boot: Boot) -> None:
    machine = await boot(Code().reset())
    await machine.wait()

    with pytest.raises(HostError, match="ended"):
        await machine.snapshot()


# --- What goes wrong ----------------------------------------------------------------------------


async def test_killed_zygote_takes_its_clones_along_and_is_told(snapshot: Snapshot) -> None:
    async with open_template(snapshot) as template, clone_of(template) as clone:
        os.kill(template.pid, signal.SIGKILL)

        async with asyncio.timeout(PATIENCE):
            assert await clone.wait() == -signal.SIGKILL
        with pytest.raises(HostError, match="has ended"):
            await template.clone()


async def test_killed_clone_is_lost_alone(snapshot: Snapshot) -> None:
    async with (
        open_template(snapshot) as template,
        clone_of(template) as one,
        clone_of(template) as other,
    ):
        os.kill(one.pid, signal.SIGKILL)

        async with asyncio.timeout(PATIENCE):
            assert await one.wait() == -signal.SIGKILL
            with pytest.raises(HostError, match="ended"):
                await one.snapshot()
            assert await one.transport.reader.read() == b""
            assert await one.read_exit_report() == ""
        assert await ask(other) == 3


async def test_closed_template_leaves_its_clones_and_goes_with_the_last(
    snapshot: Snapshot,
) -> None:
    before = children(), psutil.Process().num_fds()
    async with open_template(snapshot) as template, clone_of(template) as clone:
        await template.close()
        with pytest.raises(HostError, match="closed"):
            await template.clone()
        assert await ask(clone) == 3

    assert (children(), psutil.Process().num_fds()) == before


async def test_clones_leave_nothing(snapshot: Snapshot) -> None:
    async with open_template(snapshot) as template:
        async with clone_of(template) as clone:
            await ask(clone)
        before = children(), psutil.Process().num_fds()

        for _ in range(5):
            async with clone_of(template) as clone:
                (await clone.snapshot()).close()
            making = asyncio.create_task(template.clone())
            await asyncio.sleep(0)
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)

        assert (children(), psutil.Process().num_fds()) == before


def cut_off(data: bytearray) -> None:
    del data[len(data) // 2 :]


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 1


def another_version(data: bytearray) -> None:
    data[16] += 1


@pytest.mark.parametrize("damage", [cut_off, flip, another_version, bytearray.clear])
async def test_damaged_state_is_refused(
    snapshot: Snapshot, damage: Callable[[bytearray], None]
) -> None:
    before = children(), psutil.Process().num_fds()
    data = bytearray(states.read(snapshot.state))
    damage(data)
    damaged = replace(snapshot, memory=os.dup(snapshot.memory), state=os.memfd_create("damaged"))
    os.write(damaged.state, data)

    with pytest.raises(HostError):
        await KvmHypervisor().open_template(damaged)

    assert (children(), psutil.Process().num_fds()) == before


async def test_clone_that_cannot_be_restored_says_why(snapshot: Snapshot) -> None:
    saved = states.decode(states.read(snapshot.state))
    name = "mp_state" if IS_ARM else "lapic"
    vcpu = saved.vcpus[0] | {name: b""}
    unfit = replace(snapshot, memory=os.dup(snapshot.memory), state=os.memfd_create("unfit"))
    saved.vcpus[0] = vcpu
    os.write(unfit.state, states.encode(saved))
    template = await KvmHypervisor().open_template(unfit)
    try:
        before = children(), psutil.Process().num_fds()

        with pytest.raises(HostError, match=f"not of this host: its {name}"):
            await template.clone()

        assert (children(), psutil.Process().num_fds()) == before
    finally:
        await template.close()
