"""Runs leave no cyclic garbage: what they held is free at their end, without Python's collector."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from slipway._blocking.runtime import Runtime
from slipway._local.execution import LocalExecution
from slipway._local.runtime import AsyncRuntime
from slipway._model.result import OutputFile, Result
from slipway._remote.client import AsyncClient
from slipway._remote.execution import RemoteExecution
from slipway._remote.run_stream import RunStream
from slipway._run.job_exchange import JobExchange
from slipway._run.job_report import JobReport
from slipway._run.job_request import JobRequest
from slipway._run.output_queue import OutputQueue
from slipway._run.output_sink import OutputCapture
from slipway._run.run import Run
from slipway._util.errors import UnknownOutcome
from support.api_server import serve_api
from support.fake_machine import fake_machines
from support.waiting import block_until, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Way = Callable[[AsyncRuntime], Awaitable[object]]

# All that holds source, output or files of a run.
HOLDERS = (
    *(JobExchange, JobReport, JobRequest, LocalExecution),
    *(OutputCapture, OutputFile, OutputQueue, Result, Run),
)
ROUNDS = 20
SOURCE = "zeros 1000 out\nflood 1000\nerror oh"


CLIENT_HOLDERS = (RemoteExecution, RunStream)


def count_objects(classes: tuple[type, ...]) -> Counter[str]:
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, classes))


def count_holders() -> Counter[str]:
    """Return the numbers of live holders in this process, by class."""
    return count_objects(HOLDERS)


def count_of_client() -> Counter[str]:
    """Return the same for a client; its server keeps its own for a while."""
    return count_objects(CLIENT_HOLDERS)


@contextmanager
def no_collector(count: Callable[[], Counter[str]]) -> Iterator[Callable[[], Counter[str]]]:
    """Turn Python's collector off; gives a function that counts what there is beyond now."""
    gc.collect()
    gc.disable()
    before = count()
    try:
        yield lambda: count() - before
    finally:
        gc.enable()


async def run(runtime: AsyncRuntime) -> None:
    await runtime.run(SOURCE, "bash", outputs=("out",))


async def run_with_listener(runtime: AsyncRuntime) -> None:
    await runtime.run(SOURCE, "bash", outputs=("out",), on_output=lambda *_: None)


async def start(runtime: AsyncRuntime) -> None:
    async for _ in await runtime.start(SOURCE, "bash", outputs=("out",)):
        pass


async def start_and_take_nothing(runtime: AsyncRuntime) -> None:
    await (await runtime.start(SOURCE, "bash", outputs=("out",))).wait_ended()


async def start_and_write(runtime: AsyncRuntime) -> None:
    execution = await runtime.start(f"{SOURCE}\nread 1", "bash", stdin=None, outputs=("out",))
    await execution.stdin.write(b"x")
    await execution.wait()


async def run_in_a_session(runtime: AsyncRuntime) -> None:
    async with runtime.session("bash") as session:
        await session.run(SOURCE, outputs=("out",))


async def cancel(runtime: AsyncRuntime) -> None:
    execution = await runtime.start("forever", "bash", outputs=("out",))
    await wait_until(lambda: execution.state == "running", "the program runs")
    await execution.cancel()


async def lose(runtime: AsyncRuntime) -> None:
    with suppress(UnknownOutcome):
        await runtime.run(f"{SOURCE}\ndie", "bash", outputs=("out",))


@pytest.mark.parametrize(
    "way",
    [
        *(run, run_with_listener, start, start_and_take_nothing, start_and_write),
        *(run_in_a_session, cancel, lose),
    ],
)
async def test_run_leaves_nothing_for_the_collector(way: Way) -> None:
    async with AsyncRuntime(**fake_machines()) as runtime:
        await way(runtime)  # all is imported now
        with no_collector(count_holders) as count_new:
            for _ in range(ROUNDS):
                await way(runtime)

            await wait_until(lambda: not count_new(), "all that held a run is free")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_answered_run_of_the_api_leaves_nothing_for_the_collector(accept: str) -> None:
    job = {"language": "bash", "source": SOURCE, "outputs": ["out"]}
    async with serve_api() as api, api.client() as http:
        headers = {"accept": accept}
        await http.post("/v1/run", json=job, headers=headers)
        with no_collector(count_holders) as count_new:
            for _ in range(ROUNDS):
                assert (await http.post("/v1/run", json=job, headers=headers)).is_success

            await wait_until(lambda: not count_new(), "all that held a run is free")


async def test_run_of_a_client_leaves_nothing_for_the_collector() -> None:
    async with serve_api() as api, AsyncClient(api.path) as client:
        await client.run(SOURCE, "bash", outputs=("out",))
        with no_collector(count_of_client) as count_new:
            for _ in range(ROUNDS):
                await client.run(SOURCE, "bash", outputs=("out",))

            await wait_until(lambda: not count_new(), "all that held a run is free")


def test_run_of_a_blocking_runtime_leaves_nothing_for_the_collector() -> None:
    with Runtime(**fake_machines()) as runtime:
        runtime.run(SOURCE, "bash", outputs=("out",))
        with no_collector(count_holders) as count_new:
            for _ in range(ROUNDS):
                runtime.run(SOURCE, "bash", outputs=("out",))

            block_until(lambda: not count_new(), "all that held a run is free")
