"""Sessions of the API: valid and invalid requests, clients that leave, ends."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from slipway._server.http.connection import Pace
from slipway._server.peers import AllowList
from support.api_server import Served, serve_api
from support.clock import Clock, JumpingClock
from support.fake_machine import FakeLauncher
from support.waiting import wait_until

if TYPE_CHECKING:
    import httpx

TEXT = {"content-type": "text/plain"}
EVENTS = {**TEXT, "accept": "text/event-stream"}
BASH = {"language": "bash"}


async def open_session(http: httpx.AsyncClient, **told: object) -> str:
    """Open a session and return its path."""
    answer = await http.post("/v1/sessions", json={**BASH, **told})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


async def output(http: httpx.AsyncClient, place: str, source: bytes) -> str:
    """Run ``source`` in the session at ``place``, and return its output."""
    answer = await http.post(f"{place}/run", content=source, headers=TEXT)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["run"]["stdout"].get("text"))


async def read_all(path: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data


async def until(http: httpx.AsyncClient, place: str, state: str) -> dict[str, Any]:
    """Return the record of a run or session as soon as it has this state."""

    async def has_it() -> dict[str, Any] | None:
        record: dict[str, Any] = (await http.get(place)).json()
        return record if record["state"] == state else None

    record = await wait_until(has_it, f"{place} is {state}")
    assert record is not None
    return record


async def until_runs(http: httpx.AsyncClient, place: str, count: int) -> None:
    """Wait until a session has had this number of runs."""

    async def has_them() -> bool:
        return bool((await http.get(place)).json()["runs"] == count)

    await wait_until(has_them, f"{place} has had {count} runs")


async def until_load(http: httpx.AsyncClient, **wanted: int) -> None:
    """Wait for these numbers of machines and of waiting runs."""

    async def is_so() -> bool:
        health = (await http.get("/v1/health")).json()
        return all(health[name] == count for name, count in wanted.items())

    await wait_until(is_so, f"the server's load is {wanted}")


async def until_idle(api: Served) -> None:
    """Wait until no machine and no slot is left."""
    async with api.client() as http:
        await until_load(http, machines=0, waiting=0)
    await wait_until(lambda: not api.launcher.machines, "no machine is left")


def posting(target: str, told: object = None) -> bytes:
    """Return the bytes of a request."""
    body = b"" if told is None else json.dumps(told).encode()
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"content-type: application/json\r\n\r\n" + body


# --- What they are for --------------------------------------------------------------------------


async def test_keeps_the_files_of_one_run_for_the_next(
    api: Served, http: httpx.AsyncClient
) -> None:
    place = await open_session(http)

    await output(http, place, b"write kept content")
    found = await output(http, place, b"cat kept")

    assert found.rstrip() == "content"
    assert api.launcher.launched == 1


async def test_lists_open_sessions(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/sessions", json={**BASH, "idle": 5, "memory": 2**28, "cpus": 2})
    place = answer.headers["location"]
    await output(http, place, b"print hi")

    record = (await http.get(place)).json()
    listed = (await http.get("/v1/sessions")).json()["sessions"]

    told = {"language": "bash", "state": "open", "idle": 5.0}
    assert answer.json().items() >= {**told, "runs": 0}.items()
    assert record.items() >= {**told, "runs": 1}.items()
    assert place == f"/v1/sessions/{record['id']}"
    assert listed == [record]


async def test_starts_a_run_whose_output_has_a_socket(http: httpx.AsyncClient) -> None:
    place = await open_session(http)

    started = await http.post(f"{place}/start", content=b"print hello", headers=TEXT)
    data = await read_all(started.json()["socket"])
    record = (await http.get(started.headers["location"])).json()

    assert started.status_code == 201
    assert data == b"hello\n"
    assert record["session"] == place.rpartition("/")[2]
    assert started.headers["location"] == f"/v1/runs/{record['id']}"


async def test_a_run_with_a_machine_of_its_own_has_no_session(http: httpx.AsyncClient) -> None:
    started = await http.post("/v1/start?language=bash", content=b"print", headers=TEXT)

    assert (await http.get(started.headers["location"])).json()["session"] is None


async def test_streams_the_events_of_a_run(http: httpx.AsyncClient) -> None:
    place = await open_session(http)

    answer = await http.post(f"{place}/run", content=b"print hi", headers=EVENTS)

    names = [line[7:] for line in answer.text.split("\n") if line.startswith("event: ")]
    assert names == ["started", "phase_started", "output", "phase_ended", "ended"]


async def test_each_run_has_its_own_limits_and_arguments(http: httpx.AsyncClient) -> None:
    place = await open_session(http)
    first = {"source": "env A\nforever", "environment": {"A": "b"}, "timeout": 0.05}

    limited = (await http.post(f"{place}/run", json=first)).json()
    other = (await http.post(f"{place}/run", json={"source": "env A"})).json()

    assert (limited["verdict"], limited["run"]["stdout"]["text"]) == ("timed_out", "b\n")
    assert (other["verdict"], other["run"]["stdout"]["text"]) == ("ok", "\n")


async def test_runs_wait_for_one_another(http: httpx.AsyncClient) -> None:
    place = await open_session(http)
    first = await http.post(f"{place}/start", content=b"forever", headers=TEXT)
    await until(http, first.headers["location"], "running")

    second = await http.post(f"{place}/start", content=b"print second", headers=TEXT)
    await http.delete(first.headers["location"])

    assert (second.json()["state"], second.json()["position"]) == ("queued", 0)
    assert await read_all(second.json()["socket"]) == b"second\n"


async def test_fork_begins_with_the_session_s_files_and_is_independent(
    http: httpx.AsyncClient,
) -> None:
    place = await open_session(http, idle=7)
    await output(http, place, b"write kept old")

    forked = await http.post(f"{place}/fork")
    other = forked.headers["location"]
    await output(http, place, b"write kept new")

    assert forked.status_code == 201
    assert forked.json()["idle"] == 7
    assert other != place
    assert (await output(http, other, b"cat kept")).rstrip() == "old"
    assert (await output(http, place, b"cat kept")).rstrip() == "new"


async def test_result_has_the_origin_of_its_machine(http: httpx.AsyncClient) -> None:
    place = await open_session(http)

    starts = [
        (await http.post(f"{place}/run", content=b"print", headers=TEXT)).json()["start"]
        for _ in range(2)
    ]

    assert starts == ["cold", "session"]


async def test_counts_sessions_and_starts(http: httpx.AsyncClient) -> None:
    place = await open_session(http)
    for _ in range(3):
        await output(http, place, b"print")

    text = (await http.get("/metrics")).text

    assert "slipway_sessions 1.0" in text
    assert 'slipway_starts_total{language="bash",start="cold"} 1.0' in text
    assert 'slipway_starts_total{language="bash",start="session"} 2.0' in text


async def test_makes_the_image_that_a_session_needs() -> None:
    launcher = FakeLauncher(unbuilt=["rust"])
    async with serve_api(launcher) as api, api.client() as http:
        opening = asyncio.create_task(http.post("/v1/sessions", json={"language": "rust"}))
        await until_load(http, waiting=1)

        launcher.made.set()

        assert (await opening).json()["state"] == "open"


async def test_session_has_the_requested_id(http: httpx.AsyncClient) -> None:
    ids = ["0123456789abcdef" * 2, "f" * 32]

    first = await http.post("/v1/sessions", json=BASH, headers={"slipway-session": ids[0]})
    fork = await http.post(f"/v1/sessions/{ids[0]}/fork", headers={"slipway-session": ids[1]})
    again = await http.post("/v1/sessions", json=BASH, headers={"slipway-session": ids[1]})

    assert [answer.json()["id"] for answer in (first, fork)] == ids
    assert (again.status_code, again.json()["type"]) == (409, "urn:slipway:conflict")


# --- Their end ----------------------------------------------------------------------------------


async def test_delete_ends_runs_and_keeps_their_output(
    api: Served, http: httpx.AsyncClient
) -> None:
    place = await open_session(http)
    started = await http.post(f"{place}/start", content=b"print before\nforever", headers=TEXT)
    await until(http, started.headers["location"], "running")

    answer = await http.delete(place)

    assert (answer.status_code, answer.content) == (204, b"")
    assert not api.launcher.machines
    health = (await http.get("/v1/health")).json()
    assert (health["machines"], health["waiting"]) == (0, 0)
    assert await read_all(started.json()["socket"]) == b"before\n"
    assert (await http.get(place)).status_code == 404


async def test_idle_session_ends_with_a_reason(api: Served, http: httpx.AsyncClient) -> None:
    clock = Clock()
    place = await open_session(http, idle=20)
    clock.advance(20)
    await until(http, place, "ended")

    answers = [
        await http.post(f"{place}/{what}", content=b"print", headers=TEXT)
        for what in ("run", "start", "fork")
    ]
    metrics = await http.get("/metrics")
    deleted = await http.delete(place)

    assert [answer.status_code for answer in answers] == [410, 410, 410]
    assert answers[0].json()["type"] == "urn:slipway:session-ended"
    assert "no run for 20 s" in answers[0].json()["detail"]
    assert "slipway_sessions 0.0" in metrics.text
    assert deleted.status_code == 204
    assert not api.launcher.machines
    assert (await http.get(place)).status_code == 404


async def test_session_whose_machine_dies_is_lost(api: Served, http: httpx.AsyncClient) -> None:
    place = await open_session(http)

    under_it = await http.post(f"{place}/run", content=b"die", headers=TEXT)
    later = await http.post(f"{place}/run", content=b"print", headers=TEXT)

    assert under_it.status_code == 502
    assert (later.status_code, later.json()["type"]) == (410, "urn:slipway:session-lost")
    assert (await http.get(place)).json()["state"] == "lost"
    await until_idle(api)


async def test_client_that_leaves_cancels_its_run_and_not_the_session(
    api: Served, http: httpx.AsyncClient
) -> None:
    place = await open_session(http)
    await output(http, place, b"write kept content")
    _, writer = await api.connect()
    writer.write(posting(f"{place}/run", {"source": "forever"}))
    await until_runs(http, place, 2)

    writer.close()

    assert (await output(http, place, b"cat kept")).rstrip() == "content"


async def test_client_that_reads_nothing_loses_its_run_and_not_the_session() -> None:
    JumpingClock()
    async with serve_api(pace=Pace(stall=20)) as api, api.client() as http:
        place = await open_session(http)
        _, writer = await api.connect()
        request = posting(f"{place}/run", {"source": "flood 100000000", "output_limit": 2**30})
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request.replace(b"\r\n", b"\r\naccept: text/event-stream\r\n", 1))
        await until_runs(http, place, 1)

        assert await output(http, place, b"print next") == "next\n"
        writer.close()


@pytest.mark.parametrize("half", [False, True], ids=["at-once", "half-first"])
async def test_client_that_leaves_before_its_session_is_open_leaves_nothing(half: bool) -> None:
    gate = asyncio.Event()

    async def boot() -> None:
        await wait_until(gate.is_set, "the test lets the machine boot")

    async with serve_api(FakeLauncher(boot=boot)) as api:
        _, writer = await api.connect()
        writer.write(posting("/v1/sessions", BASH))
        if half:
            writer.write_eof()
        await wait_until(lambda: api.launcher.machines, "a machine is there")

        writer.close()

        await until_idle(api)


async def test_client_that_leaves_the_queue_leaves_nothing() -> None:
    async with serve_api(runtime={"max_machines": 1}) as api, api.client() as http:
        place = await open_session(http)
        _, writer = await api.connect()
        writer.write(posting("/v1/sessions", BASH))
        await until_load(http, waiting=1)

        writer.close()
        await until_load(http, machines=1, waiting=0)

        assert await output(http, place, b"print still") == "still\n"


async def test_client_that_leaves_before_its_fork_is_open_keeps_the_session(
    api: Served, http: httpx.AsyncClient
) -> None:
    place = await open_session(http)
    running = await http.post(f"{place}/start", content=b"forever", headers=TEXT)
    await until(http, running.headers["location"], "running")
    _, writer = await api.connect()
    writer.write(posting(f"{place}/fork"))
    await until_load(http, machines=2)

    writer.close()
    await until_load(http, machines=1)
    await http.delete(running.headers["location"])

    assert await output(http, place, b"print still") == "still\n"
    assert len((await http.get("/v1/sessions")).json()["sessions"]) == 1


async def test_client_that_sends_no_more_gets_its_session(api: Served) -> None:
    answer = await api.answer(posting("/v1/sessions", BASH), end=True)

    assert answer.startswith(b"HTTP/1.1 201 ")


async def test_draining_server_refuses_new_sessions_and_ends_open_sessions() -> None:
    async with serve_api(drain=30) as api, api.client() as http:
        idle, busy = await open_session(http), await open_session(http)
        running = await http.post(f"{busy}/start?detached=true", content=b"forever", headers=TEXT)
        await until(http, running.headers["location"], "running")

        api.server.stop()
        await until(http, idle, "ended")
        refused = [
            await http.post("/v1/sessions", json=BASH),
            await http.post(f"{busy}/fork"),
            await http.post(f"{busy}/run", content=b"print", headers=TEXT),
        ]

        assert [answer.json()["type"] for answer in refused] == ["urn:slipway:draining"] * 3
        assert (await http.get(busy)).json()["state"] == "open"


async def test_draining_server_refuses_waiting_sessions() -> None:
    async with serve_api(runtime={"max_machines": 1}) as api, api.client() as http:
        await open_session(http)
        opening = asyncio.create_task(http.post("/v1/sessions", json=BASH))
        await until_load(http, waiting=1)

        api.server.stop()
        answer = await opening

        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:slipway:draining"


# --- What bounds them ---------------------------------------------------------------------------


async def test_open_session_holds_the_slot_of_a_run() -> None:
    async with serve_api(runtime={"max_machines": 1, "queue": 0}) as api, api.client() as http:
        place = await open_session(http)

        session = await http.post("/v1/sessions", json=BASH)
        run = await http.post("/v1/run?language=bash", content=b"print", headers=TEXT)
        await http.delete(place)
        after = await http.post("/v1/run?language=bash", content=b"print", headers=TEXT)

        assert (session.status_code, run.status_code) == (429, 429)
        assert int(session.headers["retry-after"]) >= 1
        assert after.status_code == 200


async def test_number_of_sessions_is_bounded() -> None:
    async with serve_api(sessions=1) as api, api.client() as http:
        place = await open_session(http)

        another = await http.post("/v1/sessions", json=BASH)
        forked = await http.post(f"{place}/fork")
        run = await http.post("/v1/run?language=bash", content=b"print", headers=TEXT)
        await http.delete(place)

        assert (another.status_code, forked.status_code) == (429, 429)
        assert another.json()["type"] == "urn:slipway:busy"
        assert run.status_code == 200
        assert await open_session(http)


async def test_forks_are_bounded_by_the_machines_and_the_queue() -> None:
    async with serve_api(runtime={"max_machines": 4, "queue": 2}) as api, api.client() as http:
        place = await open_session(http)
        forking = [asyncio.create_task(http.post(f"{place}/fork")) for _ in range(10)]
        await wait_until(lambda: sum(task.done() for task in forking) >= 8, "8 forks are answered")
        done = [task for task in forking if task.done()]
        statuses = sorted(task.result().status_code for task in done)

        machines = len(api.launcher.machines)
        sessions = (await http.get("/v1/sessions")).json()["sessions"]
        of_forks = [await http.post(f"/v1/sessions/{one['id']}/fork") for one in sessions]
        await http.delete(place)
        late = [(await task).status_code for task in forking if task not in done]

        assert statuses == [201] * 3 + [429] * 5
        assert (machines, len(sessions), api.launcher.most) == (4, 4, 4)
        assert [answer.status_code for answer in of_forks] == [429] * 4
        assert late == [410] * 2


async def test_sessions_that_ended_long_ago_are_forgotten(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    JumpingClock()
    monkeypatch.setattr("slipway._server.kept.kept_sessions.MAX_ENDED", 2)
    places = [await open_session(http, idle=60) for _ in range(4)]

    async def have_ended() -> bool:
        kept = (await http.get("/v1/sessions")).json()["sessions"]
        return all(one["state"] == "ended" for one in kept)

    await wait_until(have_ended, "all sessions have ended")

    known = [(await http.get(place)).status_code for place in places]

    assert known == [404, 404, 200, 200]


# --- What cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ("{}", 422, "language"),
        ("[]", 422, "body"),
        ("", 400, "JSON"),
        ('{"language": "cobol"}', 422, "cobol"),
        ('{"language": 1}', 422, "language"),
        ('{"language": "bash@5", "version": "6"}', 422, "version"),
        ('{"language": "bash", "memory": 1}', 422, "memory"),
        ('{"language": "bash", "memory": "1G"}', 422, "memory"),
        ('{"language": "bash", "memory": 60000000000}', 422, "memory"),
        ('{"language": "bash", "cpus": 9}', 422, "cpus"),
        ('{"language": "bash", "machine": "toaster"}', 422, "machine"),
        ('{"language": "bash", "idle": 0}', 422, "idle"),
        ('{"language": "bash", "idle": 1e9}', 422, "idle"),
        ('{"language": "bash", "idle": NaN}', 422, "idle"),
        ('{"language": "bash", "timeout": 1}', 422, "timeout"),
        ('{"language": "bash", "source": "x"}', 422, "source"),
        ('{"language": "' + "b" * 70_000 + '"}', 413, "65536"),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_refuses_a_session_and_names_what_is_wrong(
    http: httpx.AsyncClient, body: str, status: int, named: str
) -> None:
    headers = {"content-type": "application/json"}

    answer = await http.post("/v1/sessions", content=body, headers=headers)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert named in answer.json()["detail"]
    assert answer.json()["hint"]
    health = (await http.get("/v1/health")).json()
    assert (health["machines"], health["waiting"]) == (0, 0)


async def test_refuses_a_query_and_a_body_of_another_type(http: httpx.AsyncClient) -> None:
    query = await http.post("/v1/sessions?language=bash", json=BASH)
    text = await http.post("/v1/sessions", content=b"bash", headers=TEXT)
    key = await http.post("/v1/sessions", json=BASH, headers={"slipway-key": "k" * 129})
    name = await http.post("/v1/sessions", json=BASH, headers={"slipway-session": "../../x"})

    assert name.status_code == 422
    assert (query.status_code, query.json()["hint"]) == (422, "Give it in the body.")
    assert text.status_code == 415
    assert key.status_code == 422


@pytest.mark.parametrize(
    "name", ["memory", "cpus", "machine", "language", "version", "idle", "kernel", "keep"]
)
@pytest.mark.parametrize("what", ["run", "start"])
async def test_refuses_options_of_the_session_for_its_runs(
    http: httpx.AsyncClient, name: str, what: str
) -> None:
    place = await open_session(http)

    in_body = await http.post(f"{place}/{what}", json={"source": "print", name: "1"})
    in_query = await http.post(f"{place}/{what}?{name}=1", content=b"print", headers=TEXT)

    assert (in_body.status_code, in_query.status_code) == (422, 422)
    assert f"unknown field '{name}'" in in_body.json()["detail"]
    if name in {"memory", "cpus", "machine", "language", "version"}:
        assert "POST /v1/sessions" in in_body.json()["hint"]


@pytest.mark.parametrize("identifier", ["x", "0" * 32, "..%2f..", "%00", "é", "a" * 5000])
async def test_unknown_session_is_a_404(http: httpx.AsyncClient, identifier: str) -> None:
    place = f"/v1/sessions/{identifier}"

    answers = [
        await http.get(place),
        await http.delete(place),
        *[
            await http.post(f"{place}/{what}", content=b"print", headers=TEXT)
            for what in ("run", "start", "fork")
        ],
    ]

    assert [answer.status_code for answer in answers] == [404] * 5
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}


async def test_a_bad_run_leaves_the_session_as_it_was(http: httpx.AsyncClient) -> None:
    place = await open_session(http)

    number = await http.post(f"{place}/run", json={"source": 1})
    large = await http.post(f"{place}/run", json={"source": "x", "output_limit": 2**30})
    outside = await http.post(f"{place}/run", json={"source": "x", "outputs": ["/etc/shadow"]})

    assert [answer.status_code for answer in (number, large, outside)] == [422] * 3
    assert await output(http, place, b"print hi") == "hi\n"


_ASK = """
import json, socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(30)
client.connect(sys.argv[1])
for method, target in json.loads(sys.argv[2]):
    client.sendall(f"{method} {target} HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n".encode())
    answer = b""
    while b"\\r\\n\\r\\n" not in answer:
        answer += client.recv(65536)
    head, _, body = answer.partition(b"\\r\\n\\r\\n")
    size = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while len(body) < size:
        body += client.recv(65536)
    print(head.split()[1].decode(), body.decode())
"""


@pytest.mark.usefixtures("other_users")
async def test_a_session_does_not_exist_for_other_users() -> None:
    async with serve_api(allowed=AllowList(0, everybody=True)) as api, api.client() as http:
        api.path.chmod(0o666)
        place = await open_session(http)
        asked = [
            ["GET", "/v1/sessions"],
            ["GET", place],
            ["DELETE", place],
            ["POST", f"{place}/fork"],
            ["POST", f"{place}/run"],
            ["POST", f"{place}/start"],
        ]

        stranger = await asyncio.create_subprocess_exec(
            *(sys.executable, "-ISc", _ASK, str(api.path), json.dumps(asked)),
            user=65534,
            group=65534,
            stdout=-1,
        )
        told = (await stranger.communicate())[0].decode().splitlines()

        assert told[0] == '200 {"sessions":[]}'
        assert [line.split()[0] for line in told[1:]] == ["404"] * 5
        assert await output(http, place, b"print mine") == "mine\n"
