"""Clients that are slow, half-closed, gone, strangers, or many."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from slipway._server.systemd import raise_descriptor_limit
from support.api_server import Served, serve_api
from support.clock import JumpingClock
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT = b"content-type: text/plain\r\n"
HEALTH = b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n"


def run(source: bytes, *fields: bytes) -> bytes:
    """Return a request to run ``source``."""
    length = b"content-length: %d\r\n" % len(source)
    head = b"POST /v1/run?language=bash HTTP/1.1\r\nhost: x\r\n"
    return head + TEXT + length + b"".join(fields) + b"\r\n" + source


EVENTS = b"accept: text/event-stream\r\n"


@pytest.fixture
async def api() -> AsyncIterator[Served]:
    async with serve_api() as server:
        yield server


@pytest.fixture
async def hasty() -> AsyncIterator[Served]:
    """A server for which time passes at once where it has to wait for its clients."""
    JumpingClock()
    async with serve_api() as server:
        yield server


async def until_running(api: Served) -> None:
    """Wait until a machine runs an endless program."""
    async with api.client() as http:

        async def runs() -> bool:
            health = (await http.get("/v1/health")).json()
            return bool(api.launcher.machines) and health["machines"] == 1

        await wait_until(runs, "a program runs")


async def until_no_machine(api: Served) -> None:
    await wait_until(lambda: not api.launcher.machines, "no machine is left")


# --- Slow ---------------------------------------------------------------------------------------


async def test_slow_head_has_a_time_limit(hasty: Served) -> None:
    loop = asyncio.get_running_loop()
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.setblocking(False)
    client.connect(str(hasty.path))

    async def drip() -> None:
        await loop.sock_sendall(client, b"GET /v1/health HTTP/1.1\r\nhost: x\r\nx: ")
        with suppress(BrokenPipeError):
            while True:
                await loop.sock_sendall(client, b"x")
                await asyncio.sleep(1)

    dripping = asyncio.create_task(drip())
    answer = await loop.sock_recv(client, 65536)
    await dripping
    client.close()

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_connection_without_a_request_is_closed(hasty: Served) -> None:
    assert await hasty.answer() == b""


async def test_idle_connection_is_closed(hasty: Served) -> None:
    answer = await hasty.answer(HEALTH)

    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_refuses_a_body_that_stops(hasty: Served) -> None:
    answer = await hasty.answer(run(b"print hi")[:-1])

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"urn:slipway:slow-request" in answer


async def test_cancels_the_run_of_a_client_that_reads_no_events(hasty: Served) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(hasty.path))

        client.sendall(run(b"flood 100000000", EVENTS))
        await wait_until(lambda: hasty.launcher.launched, "a machine was launched")

        await until_no_machine(hasty)


# --- Half-closed, and gone ----------------------------------------------------------------------


async def test_half_closed_client_gets_its_response(api: Served) -> None:
    answer = await api.answer(run(b"sleep 0.1\nprint hi"), end=True)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"text":"hi\\n"' in answer


async def test_half_closed_client_gets_all_pipelined_responses(api: Served) -> None:
    answer = await api.answer(HEALTH + run(b"print hi") + HEALTH, end=True)

    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.index(b'"text":"hi\\n"') < answer.rindex(b'"status":"ok"')


@pytest.mark.parametrize("cut", [10, -3], ids=["head", "body"])
async def test_refuses_a_request_that_ends_before_its_end(api: Served, cut: int) -> None:
    answer = await api.answer(run(b"print hi")[:cut], end=True)

    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("fields", [(), (EVENTS,)], ids=["result", "events"])
@pytest.mark.parametrize("half", [False, True], ids=["at-once", "half-first"])
async def test_cancels_the_run_of_a_client_that_leaves(
    api: Served, fields: tuple[bytes, ...], half: bool
) -> None:
    _, writer = await api.connect()
    writer.write(run(b"forever", *fields))
    if half:
        writer.write_eof()
    await until_running(api)

    writer.close()

    await until_no_machine(api)


async def test_cancels_the_run_of_a_client_that_leaves_with_more_requests_sent(
    api: Served,
) -> None:
    _, writer = await api.connect()
    writer.write(run(b"forever") + HEALTH * 100)
    await until_running(api)

    writer.close()

    await until_no_machine(api)


@pytest.mark.parametrize("ends", ["in its body", "in its run"])
async def test_client_that_leaves_is_counted_as_that_and_not_as_a_bug(
    api: Served, ends: str
) -> None:
    _, writer = await api.connect()
    request = run(b"forever")
    if ends == "in its body":
        writer.write(request[:-1])
        writer.close()
    else:
        writer.write(request)
        await until_running(api)
        writer.close()

    counted = 'slipway_http_requests_total{route="/v1/run",status="499"} 1.0'
    async with api.client() as http:

        async def is_counted() -> bool:
            return counted in (await http.get("/metrics")).text

        await wait_until(is_counted, "the client that left is counted")
        assert "internal-error" not in (await http.get("/metrics")).text
    await until_no_machine(api)


async def test_counts_runs_whose_clients_left(api: Served) -> None:
    _, writer = await api.connect()
    writer.write(run(b"forever", EVENTS))
    await until_running(api)
    writer.close()
    await until_no_machine(api)

    counted = 'slipway_runs_total{language="bash",machine="fake",verdict="cancelled"} 1.0'
    async with api.client() as http:

        async def is_counted() -> bool:
            return counted in (await http.get("/metrics")).text

        await wait_until(is_counted, "the cancelled run is counted")


# --- Many, and strangers ------------------------------------------------------------------------


async def test_answers_a_thousand_connections_at_once(api: Served) -> None:
    if raise_descriptor_limit() < 4096:
        pytest.skip("this process may not open enough files for both ends")

    answers = await asyncio.gather(*(api.answer(HEALTH, end=True) for _ in range(1000)))

    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)


async def test_number_of_connections_is_bounded() -> None:
    async with serve_api(descriptors=20) as api:
        open_ones = [await api.connect() for _ in range(10)]

        answer = await api.answer()
        for _, writer in open_ones:
            writer.close()
            await writer.wait_closed()

        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        async with api.client() as http:

            async def answers() -> bool:
                return (await http.get("/v1/health")).status_code == 200

            await wait_until(answers, "the server takes connections again")


_ASK = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.settimeout(30)
while answer := client.recv(65536):
    sys.stdout.buffer.write(answer)
"""


@pytest.mark.usefixtures("other_users")
async def test_refuses_strangers_whatever_the_mode_of_the_socket() -> None:
    async with serve_api() as api:
        api.path.chmod(0o666)

        stranger = await asyncio.create_subprocess_exec(
            *(sys.executable, "-ISc", _ASK, str(api.path)), user=65534, group=65534, stdout=-1
        )
        answer, _ = await stranger.communicate()
        assert stranger.returncode == 0

        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 ")
        assert "user 65534" in json.loads(body)["detail"]


async def test_server_survives_a_lack_of_descriptors(api: Served) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.setblocking(False)
    # The next descriptor is the first that there may not be.
    spare = os.dup(0)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    errors: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context["message"]))

    try:
        client.connect(str(api.path))
        await wait_until(lambda: errors, "the loop has told of an error")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        loop.set_exception_handler(None)
    await loop.sock_sendall(client, HEALTH)
    answer = await loop.sock_recv(client, 65536)
    client.close()

    assert set(errors) == {"socket.accept() out of system resource"}
    assert answer.startswith(b"HTTP/1.1 200 ")
