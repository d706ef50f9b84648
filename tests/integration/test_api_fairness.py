"""Users against each other: an attacker who takes all, and a victim who wants a little.

The kernel tells the server two different users. What the victim is given is counted, and compared
with a quiet server, which refuses nothing.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from slipway._server.kept.retention import KeptBounds
from slipway._server.peers import AllowList
from slipway._server.socket_access import SocketAccess
from support.api_server import Served, serve_api
from support.fake_machine import FakeLauncher
from support.waiting import wait_until

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("other_users")

ATTACKER, VICTIM = 61001, 61002


@asynccontextmanager
async def serve_everybody(**settings: Any) -> AsyncIterator[Served]:
    """Start a server that both users may use."""
    allowed, access = AllowList(0, everybody=True), SocketAccess(0o666)
    async with serve_api(allowed=allowed, access=access, **settings) as api:
        yield api


def build_request(path: str, body: bytes = b"", method: str = "POST", **fields: str) -> bytes:
    """Return a request; ``_`` in the names of fields stands for a dash."""
    head = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join((*head, "", "")).encode() + body


def read_status(answer: bytes) -> int:
    """Return the status of the first response in ``answer``."""
    return int(answer.split(b" ", 2)[1])


def read_record(answer: bytes) -> dict[str, Any]:
    """Return the JSON object of a response."""
    record: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return record


async def ask(api: Served, user: int, path: str, body: bytes = b"", **fields: str) -> bytes:
    """Return the answer to a request of ``user``."""
    return await api.answer(build_request(path, body, **fields), end=True, user=user)


async def start(api: Served, user: int, source: bytes, **fields: str) -> dict[str, Any]:
    """Start a detached run."""
    path = "/v1/start?language=bash&detached=true"
    answer = await ask(api, user, path, source, content_type="text/plain", **fields)
    return {"status": read_status(answer), **read_record(answer)}


# --- The queue, and machines --------------------------------------------------------------------


async def test_attacker_with_a_fresh_key_for_each_run_does_not_fill_the_queue() -> None:
    async with serve_everybody(runtime={"max_machines": 1, "queue": 8}) as api:
        taken = [
            await start(api, ATTACKER, b"forever", slipway_key=f"key-{number}")
            for number in range(9)
        ]

        wanted = [await start(api, VICTIM, b"forever") for _ in range(4)]

        assert [each["status"] for each in taken] == [201] * 9
        assert [each["status"] for each in wanted] == [201] * 4
        # On a quiet server the first would run, and the others would have the positions 0, 1, 2.
        assert [each["position"] for each in wanted] == [0, 2, 4, 6]
        assert (await start(api, ATTACKER, b"forever"))["status"] == 429


async def test_run_that_loses_its_place_in_the_queue_says_so() -> None:
    async with serve_everybody(runtime={"max_machines": 1, "queue": 2}) as api:
        taken = [await start(api, ATTACKER, b"forever") for _ in range(3)]

        await start(api, VICTIM, b"print hi")

        async def find_failure() -> dict[str, Any]:
            path = f"/v1/runs/{taken[2]['id']}"
            request = build_request(path, method="GET")
            record = read_record(await api.answer(request, end=True, user=ATTACKER))
            return record.get("failure") or {}

        failure = await wait_until(find_failure, "the attacker's newest run has failed")
        assert failure["error"] == "Busy"
        assert "which has fewer runs" in failure["message"]


# --- Connections --------------------------------------------------------------------------------

CONNECTIONS = 16
HEALTH = build_request("/v1/health", method="GET")
# What the attacker sends on each of the connections, and the start of the answer, if any.
ATTACKS = {
    "idle": (HEALTH, b"HTTP/1.1 200"),
    "new": (b"", b""),
    "head": (HEALTH[:20], b""),
    "body": (build_request("/v1/run?language=bash", b"forever")[:-1], b""),
}


async def occupy(api: Served, request: bytes, answer: bytes) -> list[asyncio.StreamWriter]:
    """Open all connections for the attacker, and send ``request`` on each."""
    writers = []
    for _ in range(CONNECTIONS):
        reader, writer = await api.connect(ATTACKER)
        writer.write(request)
        if answer:
            assert await reader.readexactly(len(answer)) == answer
        writers.append(writer)
    return writers


async def is_refused(api: Served, user: int) -> bool:
    """Tell if a new connection of ``user`` is answered with a 503 at once."""
    reader, writer = await api.connect(user)
    writer.write(HEALTH)
    answer = await reader.readuntil(b"\r\n")
    writer.close()
    return b"503" in answer


@pytest.mark.parametrize("attack", ATTACKS)
async def test_attacker_who_has_all_connections_gives_way(attack: str) -> None:
    async with serve_everybody(connections=CONNECTIONS) as api:
        writers = await occupy(api, *ATTACKS[attack])
        await wait_until(lambda: is_refused(api, ATTACKER), "all connections are in use")

        kept = [await api.connect(VICTIM) for _ in range(CONNECTIONS // 2)]
        for _, writer in kept:
            writer.write(HEALTH)
        answers = [await reader.readuntil(b"\r\n") for reader, _ in kept]

        assert [read_status(answer) for answer in answers] == [200] * len(kept)
        for writer in [*writers, *(writer for _, writer in kept)]:
            writer.close()


async def test_attacker_whose_connections_all_wait_for_runs_gives_way() -> None:
    async with serve_everybody(connections=CONNECTIONS, runtime={"max_machines": 32}) as api:
        request = build_request("/v1/run?language=bash", b"forever", content_type="text/plain")
        writers = await occupy(api, request, b"")
        await wait_until(lambda: api.launcher.launched == CONNECTIONS, "all runs have a machine")

        answer = await ask(
            api, VICTIM, "/v1/run?language=bash", b"print hi", content_type="text/plain"
        )

        assert read_status(answer) == 200
        for writer in writers:
            writer.close()


async def test_oldest_idle_connection_is_the_first_to_give_way() -> None:
    async with serve_everybody(connections=4) as api:
        idle = [await api.connect(ATTACKER) for _ in range(4)]
        for reader, writer in idle:
            writer.write(HEALTH)
            await reader.readuntil(b"}")
        # The first has just been used again.
        idle[0][1].write(HEALTH)
        await idle[0][0].readuntil(b"}")

        await api.answer(HEALTH, end=True, user=VICTIM)

        assert await idle[1][0].read() == b""
        idle[0][1].write(HEALTH)
        assert read_status(await idle[0][0].readuntil(b"\r\n")) == 200
        for _, writer in idle:
            writer.close()


# --- Bodies -------------------------------------------------------------------------------------

KIB = 1024


async def test_slow_bodies_of_an_attacker_give_way() -> None:
    async with serve_everybody(body_budget=256 * KIB) as api:
        request = build_request("/v1/run?language=bash", bytes(60 * KIB))
        slow = [await api.connect(ATTACKER) for _ in range(3)]
        for _, writer in slow:
            writer.write(request[:-1])
            await writer.drain()
        held = 'slipway_shared{thing="body_bytes"}'

        async def hold_room() -> bool:
            text = (await ask_metrics(api)).split(held)[1]
            return float(text.split()[0]) > 170 * KIB

        await wait_until(hold_room, "the attacker's bodies are held")

        source = b"print " + b"x" * (100 * KIB)
        answer = await ask(api, VICTIM, "/v1/run?language=bash", source, content_type="text/plain")

        assert read_status(answer) == 200
        assert read_status(await slow[0][0].read()) == 429
        for _, writer in slow:
            writer.close()


async def test_bodies_of_waiting_runs_leave_room_for_other_users() -> None:
    async with serve_everybody(body_budget=256 * KIB, runtime={"max_machines": 1}) as api:
        source = b"forever\n" + b"#" * (50 * KIB)
        statuses = [(await start(api, ATTACKER, source))["status"] for _ in range(6)]

        wanted = [(await start(api, VICTIM, b"print " + b"x" * (5 * KIB))) for _ in range(4)]

        assert statuses.count(201) == 4
        assert statuses.count(429) == 2
        assert [each["status"] for each in wanted] == [201] * 4


async def ask_metrics(api: Served) -> str:
    """Return the server's metrics."""
    request = build_request("/metrics", method="GET")
    return (await api.answer(request, end=True)).decode()


# --- Kept output --------------------------------------------------------------------------------


async def test_unread_output_of_an_attacker_stops_nobody_else() -> None:
    async with serve_everybody(kept=KeptBounds(kept_budget=64 * KIB)) as api:
        unread = await start(api, ATTACKER, b"flood 70000")

        async def has_ended() -> bool:
            request = build_request(f"/v1/runs/{unread['id']}", method="GET")
            answer = await api.answer(request, end=True, user=ATTACKER)
            return bool(read_record(answer)["state"] == "ended")

        await wait_until(has_ended, "the attacker's run has ended")

        assert (await start(api, ATTACKER, b"print more"))["status"] == 429
        assert (await start(api, VICTIM, b"print hi"))["status"] == 201


# --- Sessions -----------------------------------------------------------------------------------


async def open_session(api: Served, user: int) -> dict[str, Any]:
    """Open a session, and return the answer with its status."""
    fields = {"content_type": "application/json"}
    answer = await ask(api, user, "/v1/sessions", b'{"language": "bash"}', **fields)
    return {"status": read_status(answer), **read_record(answer)}


async def test_idle_sessions_of_an_attacker_give_their_machines_back() -> None:
    async with serve_everybody(runtime={"max_machines": 4}) as api:
        held = [await open_session(api, ATTACKER) for _ in range(4)]

        fields = {"content_type": "text/plain"}
        answer = await ask(api, VICTIM, "/v1/run?language=bash", b"print hi", **fields)
        opened = [await open_session(api, VICTIM) for _ in range(2)]

        path = f"/v1/sessions/{held[0]['id']}/run"
        lost = read_record(await ask(api, ATTACKER, path, b"print late", **fields))
        assert [each["status"] for each in held] == [201] * 4
        assert read_status(answer) == 200
        assert [each["status"] for each in opened] == [201] * 2
        assert lost["type"] == "urn:slipway:session-ended"
        assert "another user or key" in lost["detail"]


async def test_attacker_with_all_sessions_leaves_some_to_others() -> None:
    async with serve_everybody(sessions=3) as api:
        held = [await open_session(api, ATTACKER) for _ in range(4)]

        opened = await open_session(api, VICTIM)

        assert [each["status"] for each in held] == [201] * 3 + [429]
        assert opened["status"] == 201
        assert len(api.launcher.machines) <= 4


# --- Images -------------------------------------------------------------------------------------


async def test_version_that_is_neither_built_nor_listed_is_refused_to_other_users() -> None:
    launcher = FakeLauncher(unbuilt=["rust"])
    launcher.made.set()
    async with serve_everybody(launcher=launcher) as api:
        fields = {"content_type": "text/plain"}
        answers = [
            await ask(api, user, f"/v1/run?language=rust@{version}", b"print hi", **fields)
            for user, version in ((ATTACKER, "1.80"), (0, "1.80"), (ATTACKER, "1.80"))
        ]

        # The server's own user has it made; then it is there for all.
        assert [read_status(answer) for answer in answers] == [403, 200, 200]
        problem = read_record(answers[0])
        assert problem["type"] == "urn:slipway:image-not-allowed"
        assert "--listed rust@1.80" in problem["hint"]


async def test_operator_can_let_nobody_have_images_made() -> None:
    launcher = FakeLauncher(unbuilt=["rust"])
    async with serve_everybody(launcher=launcher, runtime={"build": "never"}) as api:
        fields = {"content_type": "text/plain"}
        answers = [
            await ask(api, user, "/v1/run?language=rust", b"print hi", **fields)
            for user in (ATTACKER, 0)
        ]

        assert [read_status(answer) for answer in answers] == [403, 403]
