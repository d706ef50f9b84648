"""Sessions on machines that are none, and what must not be left of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._local.runtime import AsyncRuntime
from support.fake_machine import MEMORY, OVERHEAD, FakeLauncher
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._local.session import LocalSession
    from slipway._model.execution import AsyncExecution

MACHINE = MEMORY + OVERHEAD
"""What a session takes of a runtime's memory, in bytes."""


@asynccontextmanager
async def tidy_runtime(launcher: FakeLauncher) -> AsyncIterator[AsyncRuntime]:
    """A runtime for three machines that leaves nothing, open files included."""
    before = open_files()
    async with AsyncRuntime(
        images=launcher, launcher=launcher, max_machines=3, cpus=16, memory_budget=2**32
    ) as made:
        yield made
    await wait_until(lambda: open_files() <= before, "no file is left open")
    nothing_left(made, launcher)


def open_files() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def nothing_left(runtime: AsyncRuntime, launcher: FakeLauncher) -> None:
    """No machine, no place, no task of ours."""
    load = runtime.load
    assert not launcher.machines
    assert (load.machines, load.waiting, load.memory, load.cpus) == (0, 0, 0, 0)
    named = {task.get_name() for task in asyncio.all_tasks()}
    assert not [name for name in named if name.startswith("slipway-")]


async def until(execution: AsyncExecution, kind: type[object]) -> None:
    """Take events up to the first of this kind."""
    async for event in execution:
        if isinstance(event, kind):
            return
    raise AssertionError(f"no {kind.__name__} came")


async def text(session: LocalSession, path: str) -> str:
    """What is in the session's file."""
    result = await session.run(f"cat {path}")
    assert result.ok, result.stderr
    return result.stdout
