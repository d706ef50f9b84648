"""Bounds of the output files of a run, on each way to it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from slipway._local.runtime import AsyncRuntime
from slipway._model.bounds import DEFAULT_FETCH_LIMIT
from slipway._server.http.start_routes import MAX_ANSWERED
from slipway._util.errors import InputError
from slipway._util.units import MIB
from support.fake_machine import MEMORY, OVERHEAD, fake_machines
from support.waiting import wait_until

if TYPE_CHECKING:
    import httpx

MACHINE = MEMORY + OVERHEAD


def fetching(size: int, **fields: object) -> dict[str, object]:
    return {
        "language": "bash",
        "source": f"zeros {size} out\nzeros 3 small",
        "outputs": ["out", "small"],
        **fields,
    }


async def test_answer_leaves_out_a_file_that_is_too_large_for_it(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/run", json=fetching(MAX_ANSWERED + 1))

    result = answer.json()
    assert result["verdict"] == "ok"
    assert "fetch_limit" in result["files"][0]["missing"]
    assert result["files"][1]["text"] == "\0\0\0"


async def test_longest_file_of_an_answer_is_base64_and_streamed(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/run", json=fetching(MAX_ANSWERED - 3))

    record = answer.json()["files"][0]
    assert answer.headers.get("transfer-encoding") == "chunked"
    assert base64.b64decode(record["base64"]) == bytes(MAX_ANSWERED - 3)
    assert len(answer.content) < 1.5 * MAX_ANSWERED


async def test_limit_above_that_of_an_answer_is_refused_with_the_way_out(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.post("/v1/run", json=fetching(1, fetch_limit=MAX_ANSWERED + 1))

    assert answer.status_code == 422
    assert "fetch_limit" in answer.json()["detail"]
    assert "/v1/start" in answer.json()["hint"]


async def test_file_that_is_too_large_for_an_answer_is_fetched_from_a_started_run(
    http: httpx.AsyncClient,
) -> None:
    started = await http.post("/v1/start", json=fetching(MAX_ANSWERED + 1))
    location = started.headers["location"]

    async def has_ended() -> bool:
        return bool((await http.get(location)).json()["state"] == "ended")

    await wait_until(has_ended, "the run has ended")
    file = await http.get(f"{location}/files/out")
    assert file.content == bytes(MAX_ANSWERED + 1)


async def test_events_of_a_run_have_files_that_no_answer_has(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/v1/run", json=fetching(MAX_ANSWERED + 1), headers={"accept": "text/event-stream"}
    )

    assert f'"path":"out","mode":420,"size":{MAX_ANSWERED + 1}' in answer.text


async def test_files_of_a_run_count_in_the_memory_budget() -> None:
    machines = fake_machines()
    async with AsyncRuntime(memory_budget=MACHINE + MIB, **machines) as runtime:
        fitting = await runtime.run("zeros 9 a", "bash", outputs=("a",), fetch_limit=MIB)
        with pytest.raises(InputError, match="the run needs"):
            await runtime.run("zeros 9 a", "bash", outputs=("a",), fetch_limit=MIB + 1)

    assert fitting.files[0].data == bytes(9)


async def test_files_of_a_run_in_a_session_count_while_it_is_under_way() -> None:
    async with (
        AsyncRuntime(memory_budget=1024 * MIB, **fake_machines()) as runtime,
        runtime.session("bash") as session,
    ):
        idle = runtime.load.memory
        execution = await session.start("forever", outputs=("a",))
        await wait_until(lambda: execution.state == "running", "the program runs")
        running = runtime.load.memory
        await execution.cancel()

        assert running == idle + DEFAULT_FETCH_LIMIT
        assert runtime.load.memory == idle
