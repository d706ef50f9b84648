"""Sessions on a server: as in this process, and with servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import slipway
from slipway import AsyncClient, Output, PhaseStarted
from support.api_server import serve_api
from support.clock import Clock
from support.fake_machine import FakeLauncher
from support.scripted_server import STARTED, ScriptedServer, saying
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway import AsyncSession
    from slipway._model.events import Event
    from support.api_server import Served

OPEN = {"id": "session-1", "language": "bash", "state": "open"}


@pytest.fixture
async def server() -> AsyncIterator[Served]:
    async with serve_api(runtime={"max_machines": 3}) as made:
        yield made


@pytest.fixture
async def client(server: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.path) as made:
        yield made


@pytest.fixture
async def session(client: AsyncClient) -> AsyncIterator[AsyncSession]:
    async with client.session("bash") as made:
        yield made


@pytest.fixture
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    with tempfile.TemporaryDirectory(prefix="slipway-") as path:
        async with ScriptedServer(Path(path)) as server:
            server.answers["POST", "sessions"] = 201, OPEN
            yield server


async def until(execution: slipway.AsyncExecution, kind: type[Event]) -> None:
    async for event in execution:
        if isinstance(event, kind):
            return
    raise AssertionError(f"no {kind.__name__} came")


async def until_left(server: Served, machines: int = 0) -> None:
    """Until the server has so many machines, and nobody waits."""
    async with AsyncClient(server.path) as client:

        async def has_left() -> bool:
            health = await client.health()
            left = (health.machines, health.waiting, len(server.launcher.machines))
            return left == (machines, 0, machines)

        await wait_until(has_left, f"the server has {machines} machines, and nobody waits")


# --- The same as in process -----------------------------------------------------------------------


async def test_tells_what_it_is(client: AsyncClient) -> None:
    session = client.session("bash")
    before, known = session.state, session.id

    await session.open()
    during, name = session.state, session.id
    await session.open()
    await session.close()

    assert (before, during, session.state) == ("opening", "open", "ended")
    assert (len(name), session.id, session.language) == (32, name, "bash")
    assert known == name


async def test_run_takes_all_that_a_run_takes(session: AsyncSession) -> None:
    told: list[bytes] = []

    async def take(_phase: str, _stream: str, data: bytes) -> None:
        told.append(data)

    result = await session.run(
        "env A\narguments\ncat in\nwrite out made\necho",
        stdin=b"x" * 100_000,
        on_output=take,
        environment={"A": "b"},
        arguments=("one",),
        files=(slipway.InputFile("in", b"file\n"),),
        outputs=("out",),
        timeout=30,
    )

    assert b"".join(told) == b"b\nbash\nmain.sh\none\nfile\n" + b"x" * 100_000
    assert result.files[0].data == b"made"


async def test_handle_has_stdin_signals_and_events(session: AsyncSession) -> None:
    execution = await session.start("echo\nforever", stdin=None)
    await until(execution, PhaseStarted)

    await execution.stdin.write(b"hello")
    await execution.stdin.close()
    await until(execution, Output)
    await execution.signal(15)
    result = await execution.wait()

    assert result.verdict == "signaled"


async def test_fork_begins_as_the_session_is(session: AsyncSession) -> None:
    await session.run("write kept old")

    async with await session.fork() as fork:
        await session.run("write kept new")
        found = await fork.run("cat kept")

    assert found.stdout.rstrip() == "old"
    assert (await session.run("cat kept")).stdout.rstrip() == "new"
    assert fork.state == "ended"


async def test_client_that_is_closed_closes_its_sessions(server: Served) -> None:
    async with AsyncClient(server.path) as client:
        session = client.session("bash")
        await session.open()
        fork = await session.fork()

    assert (session.state, fork.state) == ("ended", "ended")
    assert not server.launcher.machines
    with pytest.raises(slipway.InputError, match="closed"):
        client.session("bash")


async def test_session_that_another_has_deleted_has_ended(
    server: Served, session: AsyncSession
) -> None:
    async with server.client() as http:
        await http.delete(f"/v1/sessions/{session.id}")

    with pytest.raises(slipway.InputError, match=r"session .* not found"):
        await session.run("print x")

    assert session.state == "ended"


@pytest.mark.parametrize("how", ["cancel", "close", "client"])
@pytest.mark.parametrize("when", ["queued", "booting"])
async def test_opening_that_is_broken_off_leaves_nothing(how: str, when: str) -> None:
    gate, booting = asyncio.Event(), asyncio.Event()

    async def boot() -> None:
        booting.set()
        await wait_until(gate.is_set, "the test lets the machine boot")

    async with (
        serve_api(FakeLauncher(boot=boot), runtime={"max_machines": 1}) as server,
        AsyncClient(server.path) as client,
        AsyncClient(server.path) as other,
    ):
        sessions = [other.session("bash"), client.session("bash")]
        opening = [asyncio.create_task(sessions[0].open())] if when == "queued" else []
        if when == "queued":
            await wait_until(booting.is_set, "a machine boots")
        task = asyncio.create_task(sessions[1].open())

        async def has_more() -> bool:
            load = await other.health()
            return load.machines + load.waiting > len(opening)

        await wait_until(has_more, "the session has a machine, or waits for one")
        await wait_until(booting.is_set, "a machine boots")

        if how == "cancel":
            task.cancel()
        elif how == "close":
            await sessions[1].close()
        else:
            await client.aclose()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        await until_left(server, len(opening))

        broken_off = asyncio.CancelledError if how == "cancel" else slipway.InputError
        assert isinstance(outcome, broken_off)
        assert sessions[1].state == "ended"
        gate.set()
        await asyncio.gather(*opening)


async def test_opening_that_is_broken_off_at_any_moment_leaves_nothing(
    server: Served, client: AsyncClient
) -> None:
    for pause in range(60):
        session = client.session("bash")
        opening = asyncio.create_task(session.open())
        await asyncio.sleep(pause / 2000)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        if not opening.cancelled():
            await session.close()

    await until_left(server)


async def test_full_server_is_busy() -> None:
    async with (
        serve_api(runtime={"max_machines": 1, "queue": 0}) as server,
        AsyncClient(server.path) as client,
        client.session("bash"),
    ):
        second = client.session("bash")

        with pytest.raises(slipway.Busy):
            await second.open()

        assert second.state == "ended"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 1}, "timeout is an option of a run"),
        ({"kernel": Path("/x")}, "not available on a server"),
        ({"boot_log": True}, "not available on a server"),
        ({"memory": "1G"}, "memory is '1G'"),
        ({"cpus": 99}, "cpus is 99"),
        ({"colour": 1}, "colour"),
        ({"idle_seconds": 0}, "idle_seconds"),
        ({"idle_seconds": "soon"}, "idle_seconds"),
        ({"key": "a\r\nX: y"}, "invalid key"),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_session_that_cannot_be_is_refused_before_it_is_asked_for(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(slipway.InputError, match=message):
        AsyncClient("/nonexistent").session("bash", **options)


async def test_session_of_another_language_or_too_little_memory_is_refused(
    client: AsyncClient,
) -> None:
    with pytest.raises(slipway.InputError, match="unknown language 'cobol'"):
        await client.session("cobol").open()
    with pytest.raises(slipway.InputError, match="memory"):
        await client.session("bash", memory=1).open()


@pytest.mark.parametrize("name", ["memory", "cpus", "machine", "kernel", "boot_log"])
async def test_run_is_refused_what_is_the_session_s(session: AsyncSession, name: str) -> None:
    options: dict[str, Any] = {name: 1}

    with pytest.raises(slipway.InputError, match=f"{name} is an option of the session"):
        await session.run("print x", **options)

    assert (await session.run("print x")).stdout == "x\n"


async def test_session_is_not_used_before_it_is_open(client: AsyncClient) -> None:
    session = client.session("bash")

    with pytest.raises(slipway.InputError, match="is not open"):
        await session.run("print x")
    with pytest.raises(slipway.InputError, match="is not open"):
        await session.fork()


def test_blocking_client_has_sessions_too() -> None:
    async def serve(paths: list[Path], listening: Any, over: Any) -> None:
        async with serve_api() as server:
            paths.append(server.path)
            listening.set()
            await asyncio.to_thread(over.wait)

    paths: list[Path] = []
    up, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=asyncio.run, args=(serve(paths, up, over),))
    thread.start()
    try:
        assert up.wait(30)
        with slipway.Client(paths[0]) as client, client.session("bash") as session:
            session.run("write kept content")
            with session.fork() as fork:
                found = [one.run("cat kept").stdout.rstrip() for one in (session, fork)]
            events = list(session.start("print x"))
    finally:
        over.set()
        thread.join()

    assert found == ["content", "content"]
    assert Output("run", "stdout", b"x\n") in events
    assert (session.state, fork.state) == ("ended", "ended")


# --- Servers that are bad -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        (201, {}),
        (201, None),
        (201, {**OPEN, "id": "../health"}),
        (201, {**OPEN, "id": ""}),
        (201, {**OPEN, "id": "x" * 200}),
        (201, {**OPEN, "id": 1}),
        (201, {**OPEN, "state": "dreaming"}),
        (201, {**OPEN, "language": 7}),
        b"HTTP/1.1 201 X\r\nContent-Length: 2\r\n\r\n[]",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 201 X\r\n\r\n" + b" " * 2_000_000,
    ],
    ids=lambda answer: repr(answer)[-50:],
)
async def test_answer_that_tells_of_no_session_is_an_unknown_outcome(
    scripted_server: ScriptedServer, answer: Any
) -> None:
    scripted_server.answers["POST", "sessions"] = answer

    async with AsyncClient(scripted_server.path) as client:
        session = client.session("bash")
        with pytest.raises(slipway.UnknownOutcome, match="the server"):
            await session.open()

    assert session.state == "ended"


async def test_opening_may_take_longer_than_other_answers(scripted_server: ScriptedServer) -> None:
    clock = Clock()
    scripted_server.hold.clear()
    async with AsyncClient(scripted_server.path, timeout=5) as client:
        opening = asyncio.create_task(client.session("bash").open())
        await wait_until(scripted_server.arrived.is_set, "a request has arrived")

        clock.advance(10)
        for _ in range(100):  # the turns that giving up would take
            await asyncio.sleep(0)
        given_up = opening.done()
        scripted_server.hold.set()
        await opening

    assert not given_up


async def test_session_that_is_not_waited_for_is_deleted_by_the_name_it_was_given(
    scripted_server: ScriptedServer,
) -> None:
    scripted_server.hold.clear()
    async with AsyncClient(scripted_server.path) as client:
        session = client.session("bash")
        opening = asyncio.create_task(session.open())
        await wait_until(scripted_server.arrived.is_set, "a request has arrived")

        opening.cancel()
        scripted_server.hold.set()
        await asyncio.gather(opening, return_exceptions=True)

    assert scripted_server.targets() == [
        ("POST", "/v1/sessions"),
        ("DELETE", f"/v1/sessions/{session.id}"),
    ]


async def test_server_that_goes_away_while_it_opens_is_an_unknown_outcome(
    scripted_server: ScriptedServer,
) -> None:
    scripted_server.hold.clear()
    async with AsyncClient(scripted_server.path) as client:
        opening = asyncio.create_task(client.session("bash").open())
        await wait_until(scripted_server.arrived.is_set, "a request has arrived")

        await scripted_server.stop()

        with pytest.raises(slipway.UnknownOutcome, match="went away"):
            await opening


async def test_session_of_a_server_that_has_gone_is_closed_all_the_same(
    scripted_server: ScriptedServer,
) -> None:
    async with AsyncClient(scripted_server.path) as client:
        session = client.session("bash")
        await session.open()
        await scripted_server.stop()

        await session.close()

        assert session.state == "ended"
        with pytest.raises(slipway.InputError, match="has been closed"):
            await session.run("print x")


async def test_server_that_is_silent_when_a_session_is_closed_is_an_unknown_outcome(
    scripted_server: ScriptedServer,
) -> None:
    client = AsyncClient(scripted_server.path, timeout=0.05)
    session = client.session("bash")
    await session.open()
    scripted_server.hold.clear()

    with pytest.raises(slipway.UnknownOutcome, match="did not answer DELETE"):
        await client.aclose()

    scripted_server.hold.set()


@pytest.mark.parametrize(
    ("status", "kind", "error", "state"),
    [
        (410, "session-ended", slipway.HostError, "ended"),
        (410, "session-lost", slipway.HostError, "lost"),
        (404, "not-found", slipway.InputError, "ended"),
        (422, "input-error", slipway.InputError, "open"),
        (429, "busy", slipway.Busy, "open"),
        (503, "host-error", slipway.HostError, "open"),
        (502, "unknown-outcome", slipway.UnknownOutcome, "open"),
    ],
)
async def test_refused_run_is_told_as_what_it_is(
    scripted_server: ScriptedServer, status: int, kind: str, error: type[Exception], state: str
) -> None:
    told = {"type": f"urn:slipway:{kind}", "detail": "so it is", "hint": "do"}
    scripted_server.answers["POST", "start"] = status, told
    scripted_server.answers["GET", "session-1"] = 200, {**OPEN, "state": state}
    async with AsyncClient(scripted_server.path) as client, client.session("bash") as session:
        with pytest.raises(error, match="so it is"):
            await session.run("print x")

        assert session.state == state


async def test_asks_for_what_it_was_told(scripted_server: ScriptedServer) -> None:
    failed = {"type": "failed", "error": "HostError", "message": "so it is", "hint": ""}
    scripted_server.talks.append(saying(json.dumps(failed).encode() + b"\n"))
    scripted_server.answers["POST", "start"] = (
        201,
        {**STARTED, "socket": str(scripted_server.output)},
    )
    async with AsyncClient(scripted_server.path, key="me") as client:
        async with client.session("rust@1.80", memory=2**28, cpus=2, idle_seconds=9) as session:
            with pytest.raises(slipway.HostError, match="so it is"):
                await session.run("print x", timeout=3)

        bodies = {(method, target): body for method, target, body in scripted_server.asked}

    assert bodies["POST", "/v1/sessions"] == {
        "language": "rust", "version": "1.80", "memory": 2**28, "cpus": 2, "idle": 9.0,
    }  # fmt: skip
    run = bodies["POST", "/v1/sessions/session-1/start"]
    assert (run["source"], run["timeout"], run["stream"]) == ("print x", 3, "events")
    assert not {"language", "version", "memory", "cpus", "machine"} & set(run)
    assert ("DELETE", "/v1/sessions/session-1") in bodies
