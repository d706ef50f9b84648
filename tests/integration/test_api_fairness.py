"""Users against each other: an attacker who takes all, and a victim who wants a little.

The kernel tells the server two different users. What the victim is given is counted, and compared
with a quiet server, which refuses nothing.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from slipway._server.peers import AllowList
from slipway._server.socket_access import SocketAccess
from support.api_server import Served, serve_api
from support.waiting import wait_until

if TYPE_CHECKING:
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
