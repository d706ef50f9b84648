"""What runs and sessions do alike in process and on a server: one suite for both ways."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from slipway._local.runtime import AsyncRuntime
from slipway._model.events import Ended, Output, PhaseEnded, PhaseStarted, Queued, Started
from slipway._model.input_file import InputFile
from slipway._remote.client import AsyncClient
from slipway._util.errors import Busy, HostError, InputError, UnknownOutcome
from support.api_server import serve_api
from support.clock import JumpingClock
from support.fake_machine import FakeLauncher
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution

LIBRARIES = ("runtime", "client")


@dataclass(frozen=True, slots=True)
class Way:
    """A way to runs, and the launcher of their machines."""

    runs: AsyncRuntime | AsyncClient
    launcher: FakeLauncher


@asynccontextmanager
async def open_way(name: str, **bounds: Any) -> AsyncIterator[Way]:
    """Open a way to two machines, or as ``bounds`` of a runtime have it; nothing is left of it."""
    launcher = FakeLauncher()
    bounds = {"max_machines": 2, "cpus": 16, **bounds}
    if name == "runtime":
        async with AsyncRuntime(images=launcher, launcher=launcher, **bounds) as runtime:
            yield Way(runtime, launcher)
        load = runtime.load
        assert (load.machines, load.waiting, load.memory) == (0, 0, 0)
    else:
        async with (
            serve_api(launcher, runtime=bounds) as server,
            AsyncClient(server.path) as client,
        ):
            yield Way(client, launcher)
    assert not launcher.machines


@pytest.fixture(params=LIBRARIES)
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    async with open_way(request.param) as opened:
        yield opened


@pytest.fixture
def runs(way: Way) -> AsyncRuntime | AsyncClient:
    return way.runs


@pytest.fixture
def launcher(way: Way) -> FakeLauncher:
    return way.launcher


Runs = AsyncRuntime | AsyncClient


async def until(execution: AsyncExecution, kind: type[Event]) -> Event:
    """Take events up to the first of this kind; return that."""
    async for event in execution:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came")


# --- Runs ---------------------------------------------------------------------------------------


async def test_events_come_in_order(runs: Runs) -> None:
    execution = await runs.start("build-print building\nprint hello", "rust")

    events = [event async for event in execution]

    assert [type(event) for event in events] == [
        Started, PhaseStarted, Output, PhaseEnded, PhaseStarted, Output, PhaseEnded, Ended,
    ]  # fmt: skip
    assert events[2] == Output("build", "stdout", b"building\n")
    assert events[5] == Output("run", "stdout", b"hello\n")
    ended = events[-1]
    assert isinstance(ended, Ended)
    assert ended.result.run is not None
    assert (ended.result.run.stdout.size, ended.result.run.stdout.data) == (6, b"")
    assert execution.state == "ended"


async def test_stdin_is_written_while_the_program_runs(runs: Runs) -> None:
    execution = await runs.start("echo", "bash", stdin=None)

    await execution.stdin.write(b"\xff first ")
    first = await until(execution, Output)
    await execution.stdin.write(b"second")
    await execution.stdin.close()
    result = await execution.wait()

    assert first == Output("run", "stdout", b"\xff first ")
    assert result.stdout == "second"


async def test_signal_reaches_the_program(runs: Runs) -> None:
    execution = await runs.start("trap 10\nprint ready\nforever", "bash")
    await until(execution, Output)

    await execution.signal(signal.SIGUSR1)
    caught = await until(execution, Output)
    await execution.signal(signal.SIGTERM)
    result = await execution.wait()

    assert caught == Output("run", "stdout", b"signal 10\n")
    assert (result.verdict, result.signal) == ("signaled", signal.SIGTERM)


async def test_cancelled_run_ends_with_its_verdict_and_its_output(
    runs: Runs, launcher: FakeLauncher
) -> None:
    execution = await runs.start("print before\nforever", "bash")
    await until(execution, PhaseStarted)

    await execution.cancel()
    machines = set(launcher.machines)
    result = await execution.wait()

    assert not machines
    assert result.verdict == "cancelled"
    assert result.run is not None
    assert result.stdout == "before\n"


async def test_cancelling_the_task_that_runs_ends_the_machine(
    runs: Runs, launcher: FakeLauncher
) -> None:
    task = asyncio.create_task(runs.run("forever", "bash"))
    await wait_until(lambda: launcher.machines, "a machine is there")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not launcher.machines


async def test_queue_position_is_told(runs: Runs) -> None:
    running = [await runs.start("forever", "bash") for _ in range(2)]
    waiting = [await runs.start("print x", "bash") for _ in range(2)]

    told = await until(waiting[1], Queued)
    for execution in running:
        await execution.cancel()

    assert told == Queued(1)
    assert [(await execution.wait()).stdout for execution in waiting] == ["x\n", "x\n"]


@pytest.mark.parametrize("name", LIBRARIES)
async def test_full_queue_is_busy(name: str) -> None:
    async with open_way(name, max_machines=1, queue=1) as way:
        executions = [await way.runs.start("forever", "bash") for _ in range(2)]

        with pytest.raises(Busy, match=r"queue is full \(waiting runs: 1\)") as caught:
            await way.runs.start("print x", "bash")
        for execution in executions:
            await execution.cancel()

    assert caught.value.retry_after > 0


async def test_machine_that_dies_is_an_unknown_outcome_with_the_output(runs: Runs) -> None:
    execution = await runs.start("print before\nread 1\ndie", "bash", stdin=None)
    await until(execution, PhaseStarted)
    await execution.stdin.write(b"!")

    with pytest.raises(UnknownOutcome) as caught:
        await execution.wait()

    assert caught.value.stdout == b"before\n!"
    assert execution.state == "ended"
    with pytest.raises(UnknownOutcome):
        await execution.wait()


async def test_unknown_language_is_refused(runs: Runs) -> None:
    with pytest.raises(InputError, match="unknown language 'pyton'") as caught:
        await runs.run("print x", "pyton")

    assert "python" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "output"), [(b"", b""), (b"print caf\xe9", b"caf\xe9\n"), (b"print a\0b", b"a\0b\n")]
)
async def test_source_may_be_any_bytes(runs: Runs, source: bytes, output: bytes) -> None:
    result = await runs.run(source, "bash")

    assert result.run is not None
    assert (result.verdict, result.run.stdout.data) == ("ok", output)


async def test_files_go_there_and_come_back(runs: Runs) -> None:
    data = bytes(range(256)) * 1024
    execution = await runs.start(
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


# --- Sessions -----------------------------------------------------------------------------------


async def test_files_stay_from_run_to_run(runs: Runs, launcher: FakeLauncher) -> None:
    async with runs.session("bash") as session:
        await session.run("write kept content")

        found = await session.run("cat kept")

        assert found.stdout.rstrip() == "content"
        assert found.provenance.start == "session"
    assert launcher.launched == 1


async def test_cancelled_run_leaves_the_session_and_its_files(
    runs: Runs, launcher: FakeLauncher
) -> None:
    async with runs.session("bash") as session:
        execution = await session.start("write note kept\nprint ready\nforever")
        await until(execution, Output)

        await execution.cancel()

        assert (await execution.wait()).verdict == "cancelled"
        assert session.state == "open"
        assert (await session.run("cat note")).stdout.rstrip() == "kept"
    assert launcher.launched == 1


async def test_closing_ends_what_runs(runs: Runs, launcher: FakeLauncher) -> None:
    session = runs.session("bash")
    await session.open()
    running = await session.start("print x\nforever")
    await until(running, Output)

    await asyncio.gather(session.close(), session.close())

    assert not launcher.machines
    assert (await running.wait()).verdict == "cancelled"
    assert session.state == "ended"


async def test_session_whose_machine_dies_is_lost(runs: Runs) -> None:
    async with runs.session("bash") as session:
        with pytest.raises(UnknownOutcome):
            await session.run("die")

        with pytest.raises(HostError, match="the session is lost"):
            await session.run("print x")

        assert session.state == "lost"


async def test_session_without_runs_ends_by_itself(runs: Runs, launcher: FakeLauncher) -> None:
    JumpingClock()
    session = runs.session("bash", idle_seconds=20)
    await session.open()

    await wait_until(lambda: not launcher.machines, "no machine is left")

    with pytest.raises(HostError, match="it had no run for 20 s") as error:
        await session.run("print x")
    assert "idle_seconds" in error.value.hint
    assert session.state == "ended"
    with pytest.raises(HostError, match="no run for 20 s"):
        await session.fork()
