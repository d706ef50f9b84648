"""Runs that get a clone which waits, and what becomes of them when one is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway._local.runtime import AsyncRuntime
from slipway._model.events import Output
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway._snapshots.store import SnapshotStore
from slipway._util.errors import UnknownOutcome
from slipway_initramfs.store.image_store import ImageStore
from support.programs import PATIENCE
from support.sessions import open_files
from support.stores import copy_store
from support.waiting import wait_until
from support.writable_stores import writable_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from slipway._model.result import Result

HELLO = "echo hello"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of most tests."""
    return writable_store("bash", tmp_path_factory.getbasetemp() / "pool-store")


@asynccontextmanager
async def runtime_with(count: int, machine: str, root: Path) -> AsyncIterator[AsyncRuntime]:
    """A runtime in which so many clones of bash wait; nothing of it is left."""
    await asyncio.to_thread(lambda: None)  # the loop's threads have files of their own
    before = children(), open_files()
    async with AsyncRuntime(store=root, machine=machine, pool=count, warm=["bash"]) as runtime:
        await wait_until(lambda: runtime.idle == count, "so many clones wait")
        yield runtime
    await wait_until(lambda: open_files() <= before[1], "no file is left open")
    assert children() == before[0]


def children() -> set[int]:
    """The processes that have come of this one and not ended."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def idle_machine(runtime: AsyncRuntime) -> int:
    """The process of the clone that waits."""
    pool = runtime._supply._pool
    assert pool is not None
    ((idle,),) = (entry.ready for entry in pool.entries.values())
    return idle.guest.machine.pid


def waits_anew(pid: int, runtime: AsyncRuntime) -> bool:
    """Whether a clone waits that is not the process ``pid``."""
    return runtime.idle == 1 and idle_machine(runtime) != pid


async def hello(runtime: AsyncRuntime) -> Result:
    """A run that cannot fail."""
    result = await runtime.run(HELLO, "bash", **PATIENCE)  # type: ignore[arg-type]
    assert result.stdout == "hello\n"
    return result


async def test_runs_get_clones_that_wait(machine: str, root: Path) -> None:
    async with runtime_with(1, machine, root) as runtime:
        starts = []
        for _ in range(3):
            await wait_until(lambda: runtime.idle, "a clone waits in the pool")
            starts.append((await hello(runtime)).provenance)

    assert [(start.start, start.start_reason) for start in starts] == [("pool", "")] * 3


async def test_runs_at_once_get_what_there_is_and_the_others_clone(
    machine: str, root: Path
) -> None:
    async with runtime_with(1, machine, root) as runtime:
        results = await asyncio.gather(*(hello(runtime) for _ in range(2)))

    # The clone's successor may wait before the second run looks for it.
    starts = sorted(result.provenance.start for result in results)
    assert starts[0] == "pool"
    assert starts[1] in {"pool", "snapshot", "warm"}


async def test_clone_that_is_killed_while_it_waits_is_replaced(machine: str, root: Path) -> None:
    async with runtime_with(1, machine, root) as runtime:
        killed = idle_machine(runtime)
        os.kill(killed, signal.SIGKILL)
        await wait_until(
            lambda: waits_anew(killed, runtime), "a clone waits in place of the killed ones"
        )
        result = await hello(runtime)

    assert result.provenance.start == "pool"


async def test_clone_that_was_killed_just_now_is_not_given_out(machine: str, root: Path) -> None:
    async with runtime_with(1, machine, root) as runtime:
        os.kill(idle_machine(runtime), signal.SIGKILL)

        result = await hello(runtime)

    assert result.ok


async def test_clone_that_hangs_is_not_given_out(
    machine: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway._snapshots.pool.ANSWER_SECONDS", 0.5)
    async with runtime_with(1, machine, root) as runtime:
        hung = idle_machine(runtime)
        os.kill(hung, signal.SIGSTOP)

        result = await hello(runtime)
        gone = not psutil.pid_exists(hung)

    # By then a successor may wait, or one is made for the run.
    assert result.provenance.start in {"pool", "snapshot", "warm"}
    assert gone


async def test_clone_that_is_killed_under_a_run_is_lost_alone(machine: str, root: Path) -> None:
    async with runtime_with(1, machine, root) as runtime:
        taken = idle_machine(runtime)
        execution = await runtime.start("echo up; read line", "bash", stdin=None)
        async for event in execution:
            if isinstance(event, Output):
                break
        os.kill(taken, signal.SIGKILL)
        with pytest.raises(UnknownOutcome):
            await execution.wait()
        await wait_until(lambda: runtime.idle, "a clone waits in the pool")
        result = await hello(runtime)

    assert result.provenance.start == "pool"


async def test_pool_that_is_closed_while_it_is_filled_leaves_nothing(
    machine: str, root: Path
) -> None:
    await asyncio.to_thread(lambda: None)
    before = children(), open_files()
    for moment in (0.0, 0.05, 0.2, 0.5):
        async with AsyncRuntime(store=root, machine=machine, pool=2, warm=["bash"]):
            await asyncio.sleep(moment)

    await wait_until(lambda: open_files() <= before[1], "no file is left open")
    assert children() == before[0]


async def test_snapshot_that_is_damaged_is_told_and_made_anew(
    machine: str, tmp_path: Path, progress: Callable[[str], None]
) -> None:
    assets = find_assets(find_language("bash"), Options(), ImageStore(), progress)
    copy_store(assets, tmp_path)
    snapshots = SnapshotStore(ImageStore(tmp_path))
    async with AsyncRuntime(store=tmp_path, machine=machine, pool=1, warm=["bash"]) as runtime:
        await wait_until(lambda: runtime.idle, "a clone waits in the pool")
    (stored,) = snapshots.list()
    with stored.memory.path.open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-9, os.SEEK_END)
        file.write(bytes([byte ^ 1]))

    async with AsyncRuntime(store=tmp_path, machine=machine) as runtime:
        damaged = await hello(runtime)
    left = snapshots.list()
    async with AsyncRuntime(store=tmp_path, machine=machine, pool=1) as runtime:
        await hello(runtime)
        await wait_until(lambda: runtime.idle, "a clone waits in the pool")
        repaired = await hello(runtime)

    assert damaged.provenance.start == "cold"
    assert "is damaged" in damaged.provenance.start_reason
    assert left == []
    assert repaired.provenance.start == "pool"


async def test_cold_runtime_boots_whatever_there_is(machine: str) -> None:
    async with AsyncRuntime(machine=machine, cold=True) as runtime:
        result = await hello(runtime)

    assert (result.provenance.start, result.timing.restore) == ("cold", 0.0)
