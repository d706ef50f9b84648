"""Runs on a server through its Unix socket: the same as in process."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from slipway._local.runtime import AsyncRuntime
from slipway._model.events import Output, PhaseEnded
from slipway._remote.client import AsyncClient
from slipway._util.errors import InputError
from slipway._util.units import MIB
from support.api_server import serve_api
from support.fake_machine import fake_machines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution
    from support.api_server import Served


@pytest.fixture
async def server() -> AsyncIterator[Served]:
    async with serve_api(runtime={"max_machines": 2}) as made:
        yield made


@pytest.fixture
async def client(server: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.path) as made:
        yield made


async def until(execution: AsyncExecution, kind: type[Event]) -> Event:
    """The first event of this kind."""
    async for event in execution:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


async def test_result_is_the_same_as_in_process(client: AsyncClient) -> None:
    source = "build-print hi\nprint hello\nerror oh\nexit 3"
    async with AsyncRuntime(**fake_machines()) as runtime:
        local = await runtime.run(source, "rust", outputs=("none",))

    remote = await client.run(source, "rust", outputs=("none",))

    assert remote.build is not None
    assert remote.run is not None
    assert local.run is not None
    assert (remote.verdict, remote.code) == (local.verdict, local.code)
    assert remote.build.stdout == local.build.stdout  # type: ignore[union-attr]
    assert (remote.run.stdout, remote.run.stderr) == (local.run.stdout, local.run.stderr)
    assert (remote.files, remote.provenance) == (local.files, local.provenance)


async def test_long_stdin_is_streamed(client: AsyncClient) -> None:
    data = bytes(range(256)) * 4096

    result = await client.run("echo", "bash", stdin=data)

    assert result.run is not None
    assert result.run.stdout.data == data


async def test_signal_is_refused_where_nothing_runs(client: AsyncClient) -> None:
    running = [await client.start("forever", "bash") for _ in range(2)]
    queued = await client.start("forever", "bash")

    with pytest.raises(InputError, match="no program of this run is running"):
        await queued.signal(signal.SIGTERM)

    for execution in (*running, queued):
        await execution.cancel()


async def test_program_waits_for_whoever_reads_slowly(client: AsyncClient) -> None:
    size = 16 * MIB
    execution = await client.start(f"flood {size}\nexit 7", "bash", output_limit=2 * size)

    taken = 0
    async for event in execution:
        if isinstance(event, Output):
            taken += len(event.data)
            await asyncio.sleep(0)
        elif isinstance(event, PhaseEnded):
            break
    result = await execution.wait()

    assert taken == size
    assert result.code == 7


@pytest.mark.usefixtures("bash")
async def test_languages_and_health_are_told(client: AsyncClient) -> None:
    languages = {language.name: language for language in await client.languages()}
    health = await client.health()

    assert languages.keys() >= {"bash", "python", "rust"}
    assert languages["bash"].toolchain.startswith("bash 5.")
    assert (health.status, health.machines, health.waiting) == ("ok", 0, 0)
