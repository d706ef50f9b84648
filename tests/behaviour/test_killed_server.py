"""A server that is killed (SIGKILL): no machine outlives it, and the next one sweeps what it left.

At chosen moments with real machines, and with machines that are none at random times, of which
``make killed-server`` has more: SLIPWAY_TEST_KILLS, SLIPWAY_TEST_SEED.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway._model.events import Output, PhaseStarted, Queued
from slipway._remote.client import AsyncClient
from slipway._util.errors import SlipwayError
from support.serving import Server
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution

pytestmark = pytest.mark.alone

KILLS = int(os.environ.get("SLIPWAY_TEST_KILLS", "8"))
SEED = int(os.environ.get("SLIPWAY_TEST_SEED", "0")) or random.randrange(1, 1 << 32)
# The latest kill of a server, as a multiple of the time that a start takes on this host now.
LATEST_KILL = 3.0
ENDLESS = "while :; do :; done"
BUILT = "int main(void) { for (;;); }"
TALKATIVE = "while :; do echo talk; done"
MOMENTS = {
    "queued": (ENDLESS, "bash"),
    "booting": (ENDLESS, "bash"),
    "building": (BUILT, "c"),
    "running": (ENDLESS, "bash"),
    "streaming": (TALKATIVE, "bash"),
}


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="slipway-") as made:
        yield Path(made)


async def until(execution: AsyncExecution, kind: type[Event]) -> None:
    async for event in execution:
        if isinstance(event, kind):
            return
    raise AssertionError(f"no {kind.__name__} came")


async def reach(
    moment: str, client: AsyncClient, server: Server, machine: str
) -> list[AsyncExecution]:
    """Have a run at this moment of its life."""
    source, language = MOMENTS[moment]
    execution = await client.start(source, language, machine=machine)
    executions = [execution]
    match moment:
        case "queued":
            executions.append(await client.start(source, language, machine=machine))
            await until(executions[1], Queued)
        case "booting":
            await wait_until(server.machines, "a machine boots")
            assert execution.state in {"queued", "booting"}
        case "building" | "running":
            await until(execution, PhaseStarted)
        case "streaming":
            await until(execution, Output)
    return executions


@pytest.mark.parametrize("moment", MOMENTS)
async def test_no_machine_outlives_a_killed_server(
    directory: Path, machine: str, moment: str
) -> None:
    server = Server(directory, "--max-machines", "1")
    with server:
        client = AsyncClient(server.path)
        executions = await reach(moment, client, server, machine)
        assert server.machines() or moment == "queued"

        server.kill()

        assert server.outliving() == []
        for execution in executions:
            with pytest.raises(SlipwayError):
                await execution.wait()
        await client.aclose()
        assert list(server.run_directory.iterdir())
        server.start()
        assert list(server.run_directory.iterdir()) == []
    assert server.leftovers() == []


async def use(server: Server, stop: asyncio.Event) -> None:
    """Run something, of all kinds, until there is no more server."""
    sources = ["print hello", "forever", "flood 10000000", "flood 1000\nsleep 0.1", "sleep 60"]
    async with AsyncClient(server.path) as client:
        while not stop.is_set():
            try:
                async with asyncio.timeout(0.3):
                    await client.run(random.choice(sources), "bash")
            except (SlipwayError, TimeoutError):
                await asyncio.sleep(0.01)


@pytest.mark.timeout(300 + 10 * KILLS)
async def test_server_that_is_killed_at_any_time_is_swept_by_the_next(directory: Path) -> None:
    chance = random.Random(SEED)
    print(f"SLIPWAY_TEST_SEED={SEED}")
    server = Server(directory, "--max-machines", "2", fake=True)
    began = time.monotonic()
    with server:
        latest_kill = LATEST_KILL * (time.monotonic() - began)
    left_something = 0
    for _ in range(KILLS):
        stop = asyncio.Event()
        users = [asyncio.create_task(use(server, stop)) for _ in range(6)]
        server.spawn()
        try:
            await asyncio.sleep(chance.uniform(0, latest_kill))
        finally:
            server.kill()
        left_something += bool(server.leftovers())

        stop.set()
        await asyncio.gather(*users)
    with server:
        assert list(server.run_directory.iterdir()) == []
    assert left_something
    assert server.leftovers() == []
