"""Machines that are cloned from a snapshot instead of booted."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil
import pytest
import pytest_asyncio

from slipway._model.options import Options
from slipway._run.guest import Guest
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._run.start_machine import start_machine
from slipway._util.errors import HostError, UnknownOutcome
from slipway.machine.hypervisors import choose
from slipway.machine.model import (
    Hypervisor,
    Machine,
    MachineSpec,
    PortKind,
    Snapshot,
    Template,
)
from slipway_initramfs.store.image_store import ImageStore
from slipway_protocol.messages import Stream
from support.hypervisors import with_hypervisor
from support.listening import run_with
from support.programs import patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway_protocol.messages import Phase

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = 'read word; echo "$word $((6 * 7))"'
# Writes to memory that the template has, and to more than a clone begins with.
CHURN = "head -c 8M /dev/urandom > there; sha256sum < there > sum; wc -c < there"


@dataclass(frozen=True, slots=True)
class Cloned:
    """A template, and the snapshot that it was made of, for another one."""

    hypervisor: Hypervisor
    snapshot: Snapshot
    template: Template

    def twin(self) -> Snapshot:
        """The same snapshot, with descriptors of its own."""
        return replace(
            self.snapshot, memory=os.dup(self.snapshot.memory), state=os.dup(self.snapshot.state)
        )

    async def close(self) -> None:
        """Nothing of either is left, once the clones have ended."""
        await self.template.close()
        self.snapshot.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def templates_of_machines() -> AsyncIterator[dict[str, Cloned]]:
    """What was made for the tests before this one, by machine."""
    templates: dict[str, Cloned] = {}
    yield templates
    for cloned in templates.values():
        await cloned.close()


@pytest.fixture
def assets(bash: Assets) -> Assets:
    return bash


@pytest_asyncio.fixture(loop_scope="module")
async def clone_source(
    machine: str, assets: Assets, templates_of_machines: dict[str, Cloned]
) -> Cloned:
    """A template of a guest that has had a job."""
    if machine not in templates_of_machines:
        started = await start_machine(with_hypervisor(assets, machine), Options(), template=True)
        templates_of_machines[machine] = await cloned_from(started)
    return templates_of_machines[machine]


async def cloned_from(machine: Machine) -> Cloned:
    """A template of ``machine``, once its agent is ready and has had a job."""
    async with stopping(Guest(machine)) as guest:
        await guest.wait_ready()
        await answer(guest, "warm")
        snapshot = await machine.snapshot()
    kept = replace(snapshot, memory=os.dup(snapshot.memory), state=os.dup(snapshot.state))
    hypervisor = machine.hypervisor
    return Cloned(hypervisor, kept, await hypervisor.open_template(snapshot))


@asynccontextmanager
async def stopping(guest: Guest) -> AsyncIterator[Guest]:
    """``guest``, which is stopped at the end."""
    try:
        yield guest
    finally:
        await guest.stop()


@asynccontextmanager
async def clone_of(template: Template) -> AsyncIterator[Guest]:
    """A clone whose agent has answered."""
    async with stopping(Guest(await template.clone())) as guest:
        await guest.adopt_clone()
        yield guest


async def clone_once(cloned: Cloned, snapshot: Snapshot) -> None:
    """Make a template of ``snapshot`` and a clone of that, and end both."""
    template = await cloned.hypervisor.open_template(snapshot)
    try:
        async with clone_of(template):
            pass
    finally:
        await template.close()


async def run(guest: Guest, source: str, word: str = "", *, keep: bool = False) -> bytes:
    """What the program writes to stdout when it is given ``word``."""
    stdout = bytearray()

    async def sink(_phase: Phase, stream: Stream, data: bytes) -> None:
        if stream is Stream.STDOUT:
            stdout.extend(data)

    async def stdin() -> AsyncIterator[bytes]:
        yield f"{word}\n".encode()

    report = await run_with(
        guest,
        JobRequest(
            find_language("bash"),
            source.encode(),
            Options(**patient((), (), {})),
            stdin(),
            keep_files=keep,
        ),
        sink,
    )
    assert report.succeeded
    return bytes(stdout)


async def answer(guest: Guest, word: str) -> bytes:
    """What a program answers that says more than it was told."""
    return await run(guest, HELLO, word)


def content(descriptor: int) -> bytes:
    """Of the whole file, wherever its offset is."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def digests(snapshot: Snapshot) -> list[str]:
    """Of both of its files."""
    return [hashlib.sha256(content(n)).hexdigest() for n in (snapshot.memory, snapshot.state)]


def copy_of(descriptor: int, change: Callable[[bytearray], None]) -> int:
    """A file in memory with what ``change`` makes of the file's bytes."""
    data = bytearray(content(descriptor))
    change(data)
    copy = os.memfd_create("damaged")
    os.write(copy, data)
    return copy


def children() -> list[int]:
    """The processes that have come of this one and not ended."""
    return [child.pid for child in psutil.Process().children(recursive=True)]


# --- Clones -------------------------------------------------------------------------------------


async def test_clones_that_are_made_at_once_answer_each(clone_source: Cloned) -> None:
    async with AsyncExitStack() as stack:
        guests = await asyncio.gather(
            *(stack.enter_async_context(clone_of(clone_source.template)) for _ in range(3))
        )

        answers = await asyncio.gather(
            *(answer(guest, f"clone-{number}") for number, guest in enumerate(guests))
        )

    assert answers == [b"clone-0 42\n", b"clone-1 42\n", b"clone-2 42\n"]


async def test_clone_changes_neither_its_siblings_nor_the_template(clone_source: Cloned) -> None:
    before = digests(clone_source.snapshot)
    async with clone_of(clone_source.template) as sibling:
        async with clone_of(clone_source.template) as guest:
            written = await run(guest, CHURN)
        told = await answer(sibling, "sibling")
    after = digests(clone_source.snapshot)

    assert written == b"8388608\n"
    assert told == b"sibling 42\n"
    assert after == before


@pytest.mark.parametrize("port", [PortKind.SERIAL, PortKind.AUTO])
async def test_clone_may_have_an_emulated_serial_port(
    machine: str, assets: Assets, port: PortKind
) -> None:
    hypervisor = choose(machine, ImageStore().root)
    spec = MachineSpec(
        kernel=assets.kernel_path,
        initrd=assets.initrd,
        kernel_arguments=assets.agent.kernel_arguments,
        memory_bytes=assets.memory,
        port=port,
        template=True,
    )
    cloned = await cloned_from(await hypervisor.start(spec))
    try:
        async with clone_of(cloned.template) as guest:
            told = await answer(guest, "serial")
    finally:
        await cloned.close()

    assert told == b"serial 42\n"


async def test_clone_has_as_many_processors_as_its_template(machine: str, assets: Assets) -> None:
    started = await start_machine(with_hypervisor(assets, machine), Options(cpus=2), template=True)
    cloned = await cloned_from(started)
    try:
        async with clone_of(cloned.template) as guest:
            count = await run(guest, "grep -c ^processor /proc/cpuinfo; nproc")
    finally:
        await cloned.close()

    assert count == b"2\n2\n"


async def test_snapshot_that_lies_on_a_disk_is_cloned(clone_source: Cloned, tmp_path: Path) -> None:
    files = []
    for name, source in (
        ("memory", clone_source.snapshot.memory),
        ("state", clone_source.snapshot.state),
    ):
        (tmp_path / name).write_bytes(content(source))
        (tmp_path / name).chmod(0o444)
        files.append(os.open(tmp_path / name, os.O_RDONLY))
    snapshot = replace(clone_source.snapshot, memory=files[0], state=files[1])
    before = digests(clone_source.snapshot)

    template = await clone_source.hypervisor.open_template(snapshot)
    try:
        async with clone_of(template) as guest:
            told = await answer(guest, "disk")
    finally:
        await template.close()

    assert told == b"disk 42\n"
    after = [hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in ("memory", "state")]
    assert after == before


async def test_clones_go_on_when_their_template_is_closed(clone_source: Cloned) -> None:
    template = await clone_source.hypervisor.open_template(clone_source.twin())

    async with clone_of(template) as guest:
        await template.close()
        told = await answer(guest, "orphan")

    assert told == b"orphan 42\n"


async def test_template_that_is_closed_makes_no_clones(clone_source: Cloned) -> None:
    template = await clone_source.hypervisor.open_template(clone_source.twin())
    await template.close()

    with pytest.raises(HostError, match="closed"):
        await template.clone()


# --- Forks --------------------------------------------------------------------------------------


async def test_fork_of_a_clone_has_its_files_and_both_go_on(clone_source: Cloned) -> None:
    async with clone_of(clone_source.template) as guest:
        await run(guest, "echo before > kept", keep=True)

        async with stopping(await guest.fork()) as fork:
            mine = await run(guest, "echo original >> kept; cat kept", keep=True)
            its = await run(fork, "echo fork >> kept; cat kept", keep=True)
            again = await run(fork, "cat kept", keep=True)

    assert mine == b"before\noriginal\n"
    assert its == again == b"before\nfork\n"


async def test_fork_is_forked_again(clone_source: Cloned) -> None:
    async with clone_of(clone_source.template) as guest:
        await run(guest, "echo first > kept", keep=True)
        async with stopping(await guest.fork()) as child:
            await run(child, "echo second >> kept", keep=True)
            async with stopping(await child.fork()) as grandchild:
                told = await run(grandchild, "cat kept", keep=True)

    assert told == b"first\nsecond\n"


async def test_machine_that_was_booted_is_forked_more_than_once(
    machine: str, assets: Assets
) -> None:
    async with stopping(await Guest.start(with_hypervisor(assets, machine), Options())) as guest:
        await guest.wait_ready()
        await run(guest, "echo booted > kept", keep=True)

        tellings = []
        for _ in range(2):
            async with stopping(await guest.fork()) as fork:
                tellings.append(await run(fork, "cat kept", keep=True))
        told = await answer(guest, "original")

    assert tellings == [b"booted\n"] * 2
    assert told == b"original 42\n"


# --- What goes wrong ----------------------------------------------------------------------------


def cut_off(data: bytearray) -> None:
    """As if the disk had been full."""
    del data[len(data) // 2 :]


def flip_at_the_start(data: bytearray) -> None:
    """What tells that it is a state at all."""
    data[1] ^= 0x10


@pytest.mark.parametrize("damage", [cut_off, flip_at_the_start, bytearray.clear])
async def test_damaged_state_is_told_and_leaves_nothing(
    clone_source: Cloned, damage: Callable[[bytearray], None]
) -> None:
    before = children(), psutil.Process().num_fds()
    snapshot = clone_source.twin()
    os.close(snapshot.state)
    damaged = replace(snapshot, state=copy_of(clone_source.snapshot.state, damage))

    with pytest.raises(HostError):
        await clone_once(clone_source, damaged)

    assert (children(), psutil.Process().num_fds()) == before


async def test_memory_of_another_size_is_told_and_leaves_nothing(clone_source: Cloned) -> None:
    before = children(), psutil.Process().num_fds()
    snapshot = clone_source.twin()
    os.close(snapshot.memory)
    damaged = replace(snapshot, memory=copy_of(clone_source.snapshot.memory, cut_off))

    with pytest.raises(HostError, match="damaged"):
        await clone_source.hypervisor.open_template(damaged)

    assert (children(), psutil.Process().num_fds()) == before


async def test_snapshot_of_another_machine_is_refused(clone_source: Cloned) -> None:
    before = psutil.Process().num_fds()

    with pytest.raises(HostError, match="hypervisor"):
        await clone_source.hypervisor.open_template(
            replace(clone_source.twin(), hypervisor="other")
        )

    assert psutil.Process().num_fds() == before


async def test_clone_that_is_killed_is_lost_alone(clone_source: Cloned) -> None:
    async with clone_of(clone_source.template) as sibling, clone_of(clone_source.template) as guest:
        os.kill(guest.machine.pid, signal.SIGKILL)

        with pytest.raises(UnknownOutcome, match="ended"):
            await answer(guest, "killed")
        with pytest.raises(HostError):
            await guest.machine.snapshot()
        told = await answer(sibling, "sibling")
    async with clone_of(clone_source.template) as another:
        then = await answer(another, "another")

    assert told == b"sibling 42\n"
    assert then == b"another 42\n"


async def test_clones_leave_neither_processes_nor_descriptors(clone_source: Cloned) -> None:
    async with clone_of(clone_source.template) as guest:
        await answer(guest, "first")
    before = children(), psutil.Process().num_fds()

    for _ in range(3):
        async with (
            clone_of(clone_source.template) as guest,
            stopping(await guest.fork()),
        ):
            pass
        await (await clone_source.template.clone()).stop()

    assert (children(), psutil.Process().num_fds()) == before


async def test_clone_that_nobody_waits_for_leaves_nothing(clone_source: Cloned) -> None:
    async with clone_of(clone_source.template):
        pass
    before = children(), psutil.Process().num_fds()

    for _ in range(5):
        making = asyncio.create_task(clone_source.template.clone())
        await asyncio.sleep(0)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)

    assert (children(), psutil.Process().num_fds()) == before


async def test_fingerprint_is_the_same_each_time(clone_source: Cloned) -> None:
    first, second = clone_source.hypervisor.fingerprint(), clone_source.hypervisor.fingerprint()

    assert first == second
    assert first.isprintable()
