"""Runs on a server through its Unix socket: the same as in process."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from slipway._local.runtime import AsyncRuntime
from slipway._model.errors import Busy, InputError, UnknownOutcome
from slipway._model.events import Ended, Output, PhaseEnded, PhaseStarted, Queued, Started
from slipway._model.input_file import InputFile
from slipway._remote.client import AsyncClient
from slipway._util.units import MIB
from support.api_server import served
from support.fake_machine import fake_machines
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution
    from support.api_server import Served


@pytest.fixture
async def server() -> AsyncIterator[Served]:
    async with served(runtime={"max_vms": 2}) as made:
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


async def test_events_are_the_same_as_in_process(client: AsyncClient) -> None:
    execution = await client.start("print hello", "rust")

    events = [event async for event in execution]

    assert [type(event) for event in events] == [
        Started, PhaseStarted, PhaseEnded, PhaseStarted, Output, PhaseEnded, Ended,
    ]  # fmt: skip
    assert events[4] == Output("run", "stdout", b"hello\n")
    assert execution.state == "ended"


async def test_stdin_is_written_while_the_program_runs(client: AsyncClient) -> None:
    execution = await client.start("echo", "bash", stdin=None)

    await execution.stdin.write(b"\xff first ")
    first = await until(execution, Output)
    await execution.stdin.write(b"second")
    await execution.stdin.close()
    result = await execution.wait()

    assert first == Output("run", "stdout", b"\xff first ")
    assert result.stdout == "second"


async def test_long_stdin_is_streamed(client: AsyncClient) -> None:
    data = bytes(range(256)) * 4096

    result = await client.run("echo", "bash", stdin=data)

    assert result.run is not None
    assert result.run.stdout.data == data


async def test_signal_reaches_the_program(client: AsyncClient) -> None:
    execution = await client.start("print ready\nforever", "bash")
    await until(execution, Output)

    await execution.signal(signal.SIGTERM)
    result = await execution.wait()

    assert (result.verdict, result.signal) == ("signaled", signal.SIGTERM)


async def test_signal_is_refused_where_nothing_runs(client: AsyncClient) -> None:
    running = [await client.start("forever", "bash") for _ in range(2)]
    queued = await client.start("forever", "bash")

    with pytest.raises(InputError, match="no program of this run is running"):
        await queued.signal(signal.SIGTERM)

    for execution in (*running, queued):
        await execution.cancel()


async def test_cancelled_run_leaves_no_machine(server: Served, client: AsyncClient) -> None:
    execution = await client.start("print before\nforever", "bash")
    await until(execution, PhaseStarted)

    await execution.cancel()
    machines = set(server.launcher.machines)
    result = await execution.wait()

    assert not machines
    assert result.verdict == "cancelled"
    assert result.stdout == "before\n"


async def test_cancelling_the_task_that_runs_ends_the_machine(
    server: Served, client: AsyncClient
) -> None:
    task = asyncio.create_task(client.run("forever", "bash"))
    await wait_until(lambda: server.launcher.machines, "a machine is there")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not server.launcher.machines


async def test_queue_position_is_told(client: AsyncClient) -> None:
    running = [await client.start("forever", "bash") for _ in range(2)]
    waiting = [await client.start("print x", "bash") for _ in range(2)]

    told = await until(waiting[1], Queued)
    for execution in running:
        await execution.cancel()

    assert told == Queued(1)
    assert [(await execution.wait()).stdout for execution in waiting] == ["x\n", "x\n"]


async def test_full_queue_is_busy() -> None:
    async with (
        served(runtime={"max_vms": 1, "queue": 0}) as server,
        AsyncClient(server.path) as client,
    ):
        execution = await client.start("forever", "bash")

        with pytest.raises(Busy) as caught:
            await client.start("forever", "bash")
        await execution.cancel()

    assert caught.value.retry_after > 0


async def test_files_go_there_and_come_back(client: AsyncClient) -> None:
    data = bytes(range(256)) * 1024
    execution = await client.start(
        "write out.txt made\ncat in.bin",
        "bash",
        files=(InputFile("in.bin", data),),
        outputs=("out.txt", "other"),
    )

    result = await execution.wait()

    files = {file.path: file for file in result.files}
    assert result.run is not None
    assert result.run.stdout.data == data
    assert files["out.txt"].data is not None
    assert files["out.txt"].data.rstrip() == b"made"
    assert files["other"].missing


@pytest.mark.parametrize(
    ("source", "output"), [(b"", b""), (b"print caf\xe9", b"caf\xe9\n"), (b"print a\0b", b"a\0b\n")]
)
async def test_source_may_be_any_bytes(client: AsyncClient, source: bytes, output: bytes) -> None:
    result = await client.run(source, "bash")
    async with AsyncRuntime(**fake_machines()) as runtime:
        there = await runtime.run(source, "bash")

    for ended in (result, there):
        assert ended.run is not None
        assert (ended.verdict, ended.run.stdout.data) == ("ok", output)


async def test_machine_that_dies_is_an_unknown_outcome_with_the_output(
    client: AsyncClient,
) -> None:
    execution = await client.start("print before\nread 1\ndie", "bash", stdin=None)
    await until(execution, PhaseStarted)
    await execution.stdin.write(b"!")

    with pytest.raises(UnknownOutcome) as caught:
        await execution.wait()

    assert caught.value.stdout == b"before\n!"


async def test_unknown_language_is_the_same_error(client: AsyncClient) -> None:
    with pytest.raises(InputError, match="unknown language 'pyton'") as caught:
        await client.run("print x", "pyton")

    assert "python" in caught.value.hint


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
    assert (health.status, health.vms, health.waiting) == ("ok", 0, 0)
