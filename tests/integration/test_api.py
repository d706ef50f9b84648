"""Responses of the API to valid requests."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

from support.api_server import Served, serve_api
from support.fake_machine import FakeLauncher
from support.waiting import wait_until

if TYPE_CHECKING:
    import httpx

TEXT = {"content-type": "text/plain"}


async def read_all(path: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data


async def state_of(http: httpx.AsyncClient, location: str, wanted: str) -> dict[str, Any]:
    """Return the record of a run as soon as it has this state."""

    async def has_it() -> dict[str, Any] | None:
        record: dict[str, Any] = (await http.get(location)).json()
        return record if record["state"] == wanted else None

    record = await wait_until(has_it, f"{location} is {wanted}")
    assert record is not None
    return record


async def test_gives_the_output_of_a_started_source_on_its_socket(http: httpx.AsyncClient) -> None:
    source = b"build-print built\nprint hello\nerror oh"

    answer = await http.post("/v1/start?language=rust", content=source, headers=TEXT)

    started = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/runs/{started['id']}"
    assert started["language"] == "rust"
    assert await read_all(started["socket"]) == b"built\nhello\noh\n"


async def test_takes_octets_and_a_body_without_a_type_as_the_source(
    http: httpx.AsyncClient,
) -> None:
    octets = {"content-type": "application/octet-stream"}

    first = await http.post("/v1/run?language=bash", content=b"print a", headers=octets)
    second = await http.post("/v1/run?language=bash", content=b"print b")

    assert first.json()["run"]["stdout"]["text"] == "a\n"
    assert second.json()["run"]["stdout"]["text"] == "b\n"


async def test_answers_a_whole_job_with_its_result(http: httpx.AsyncClient) -> None:
    job = {
        "source": "echo\nenv NAME\ncat in.bin\narguments\nwrite out.txt kept\nexit 3",
        "language": "bash",
        "stdin": {"base64": base64.b64encode(b"\xff").decode()},
        "environment": {"NAME": "value"},
        "arguments": ["one"],
        "files": [{"path": "in.bin", "text": "file\n"}],
        "outputs": ["out.txt", "none"],
        "timeout": 5,
    }

    answer = await http.post("/v1/run", json=job)

    result = answer.json()
    assert answer.status_code == 200
    assert result["verdict"] == "failed"
    assert result["run"]["code"] == 3
    stdout = base64.b64decode(result["run"]["stdout"]["base64"])
    assert stdout == b"\xffvalue\nfile\nbash\nmain.sh\none\n"
    assert result["files"][0]["text"] == "kept"
    assert result["files"][1] == {"path": "none", "missing": "no such file"}


async def test_streams_events_to_clients_that_accept_them(
    http: httpx.AsyncClient,
) -> None:
    headers = {**TEXT, "accept": "text/event-stream"}

    answer = await http.post("/v1/run?language=bash", content=b"print hi", headers=headers)

    frames = [frame.split("\n") for frame in answer.text.strip().split("\n\n")]
    names = [first.removeprefix("event: ") for first, _ in frames]
    records = [json.loads(second.removeprefix("data: ")) for _, second in frames]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert names == [record["type"] for record in records]
    assert names == ["started", "phase_started", "output", "phase_ended", "ended"]
    assert records[2]["text"] == "hi\n"
    assert records[-1]["result"]["verdict"] == "ok"


async def test_lost_machine_and_failed_program_differ(http: httpx.AsyncClient) -> None:
    events = {**TEXT, "accept": "text/event-stream"}

    whole = await http.post("/v1/run?language=bash", content=b"die", headers=TEXT)
    streamed = await http.post("/v1/run?language=bash", content=b"die", headers=events)

    assert whole.status_code == 502
    assert whole.json()["type"] == "urn:slipway:unknown-outcome"
    last = json.loads(streamed.text.strip().split("\n")[-1].removeprefix("data: "))
    assert last["type"] == "failed"
    assert last["error"] == "UnknownOutcome"


async def test_lists_runs_and_their_results(http: httpx.AsyncClient) -> None:
    started = await http.post("/v1/start?language=bash", content=b"forever", headers=TEXT)
    location = started.headers["location"]

    await state_of(http, location, "running")
    listed = (await http.get("/v1/runs")).json()["runs"]
    signal = await http.post(f"{location}/signal", json={"signal": "SIGTERM"})
    ended = await state_of(http, location, "ended")

    assert [run["id"] for run in listed] == [started.json()["id"]]
    assert signal.status_code == 204
    assert ended["result"]["run"]["signal"] == 15


async def test_takes_a_signal_by_its_number(http: httpx.AsyncClient) -> None:
    started = await http.post("/v1/start?language=bash", content=b"forever", headers=TEXT)
    location = started.headers["location"]
    await state_of(http, location, "running")

    await http.post(f"{location}/signal", json={"signal": 9})

    assert (await state_of(http, location, "ended"))["result"]["run"]["signal"] == 9


async def test_refuses_a_signal_while_no_program_runs(http: httpx.AsyncClient) -> None:
    started = await http.post("/v1/start?language=bash", content=b"print", headers=TEXT)
    location = started.headers["location"]
    await state_of(http, location, "ended")

    answer = await http.post(f"{location}/signal", json={"signal": 15})

    assert answer.status_code == 409


async def test_deleted_run_ends_and_its_output_can_be_read(
    api: Served, http: httpx.AsyncClient
) -> None:
    source = b"print before\nforever"
    started = await http.post("/v1/start?language=bash", content=source, headers=TEXT)
    await state_of(http, started.headers["location"], "running")

    answer = await http.delete(started.headers["location"])

    assert answer.status_code == 204
    assert answer.content == b""
    assert not api.launcher.machines
    assert await read_all(started.json()["socket"]) == b"before\n"


async def test_gives_a_fetched_file_as_octets(http: httpx.AsyncClient) -> None:
    job = {"source": "write a/b.txt data", "language": "bash", "outputs": ["a/b.txt"]}
    started = await http.post("/v1/start", json=job)
    location = started.headers["location"]
    await state_of(http, location, "ended")

    answer = await http.get(f"{location}/files/a/b.txt")
    other = await http.get(f"{location}/files/a/c.txt")

    assert answer.content == b"data"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert other.status_code == 404


async def test_stream_resumes_at_kept_bytes_and_refuses_dropped_bytes(
    http: httpx.AsyncClient,
) -> None:
    source = b"flood 3000000\nprint end"
    started = await http.post("/v1/start?language=bash&detached=true", content=source, headers=TEXT)
    location, path = started.headers["location"], started.json()["socket"]
    reader, writer = await asyncio.open_unix_connection(path)
    await reader.readexactly(2_500_000)
    writer.close()

    resumed = await http.post(f"{location}/resume?offset=2500000")
    rest = await read_all(path)
    gone = await http.post(f"{location}/resume?offset=0")

    assert resumed.json() == {"socket": path, "offset": 2500000}
    assert rest == b"x" * 500_000 + b"end\n"
    assert gone.status_code == 410


async def test_refuses_to_resume_beyond_the_end(http: httpx.AsyncClient) -> None:
    started = await http.post("/v1/start?language=bash", content=b"print x", headers=TEXT)
    location = started.headers["location"]
    await state_of(http, location, "ended")

    answer = await http.post(f"{location}/resume?offset=1000")

    assert answer.status_code == 422


async def test_lists_languages(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/languages")

    rust = next(entry for entry in answer.json()["languages"] if entry["name"] == "rust")
    assert rust["suffixes"] == [".rs"]


async def test_counts_runs_refusals_and_requests(http: httpx.AsyncClient) -> None:
    await http.post("/v1/run?language=rust", content=b"exit 1", headers=TEXT)
    await http.post("/v1/run?language=bash", content=b"die", headers=TEXT)
    await http.get("/v1/runs/none")

    text = (await http.get("/metrics")).text

    assert 'slipway_runs_total{language="rust",machine="fake",verdict="failed"} 1.0' in text
    assert 'slipway_runs_total{language="bash",machine="none",verdict="lost"} 1.0' in text
    assert 'slipway_phase_seconds_count{language="rust",phase="run"} 1.0' in text
    assert 'slipway_refusals_total{reason="not-found"} 1.0' in text
    assert 'slipway_http_requests_total{route="/v1/runs/{id}",status="404"} 1.0' in text
    assert "slipway_machines_max 8.0" in text


async def test_busy_server_says_when_to_try_again() -> None:
    async with serve_api(runtime={"max_machines": 1, "queue": 0}) as api, api.client() as http:
        first = await http.post("/v1/start?language=bash", content=b"forever", headers=TEXT)
        second = await http.post("/v1/start?language=bash", content=b"forever", headers=TEXT)

        assert first.status_code == 201
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        assert second.json()["retry_after"] > 0


async def test_reports_the_position_in_the_queue() -> None:
    async with serve_api(runtime={"max_machines": 1}) as api, api.client() as http:
        started = [
            await http.post("/v1/start?language=bash", content=b"forever", headers=TEXT)
            for _ in range(3)
        ]

        assert [answer.json()["position"] for answer in started] == [None, 0, 1]


async def test_serves_its_document_and_no_other_pages(http: httpx.AsyncClient) -> None:
    document = await http.get("/openapi.json")
    pages = [await http.get(path) for path in ("/docs", "/redoc")]

    assert document.json()["openapi"].startswith("3.")
    assert [page.status_code for page in pages] == [404, 404]


async def test_run_starts_after_its_image_is_built() -> None:
    launcher = FakeLauncher(unbuilt=["rust"])
    async with serve_api(launcher) as api, api.client() as http:
        started = await http.post("/v1/start?language=rust", content=b"print x", headers=TEXT)
        await state_of(http, started.headers["location"], "preparing")

        launcher.made.set()

        assert await read_all(started.json()["socket"]) == b"x\n"


async def test_unread_run_has_its_result_and_files(
    http: httpx.AsyncClient,
) -> None:
    told = {
        "language": "bash",
        "source": "write out made\nflood 1500000\nexit 3",
        "outputs": ["out"],
        "output_limit": 16 * 1024 * 1024,
    }
    started = await http.post("/v1/start", json=told)
    location = started.headers["location"]
    record = await state_of(http, location, "ended")

    file = await http.get(f"{location}/files/out")
    metrics = await http.get("/metrics")
    await http.delete(location)

    assert record["result"]["run"]["code"] == 3
    assert file.content.rstrip() == b"made"
    assert 'verdict="failed"' in metrics.text
