"""The command line's client, of servers that lie, stall, break off and go away."""

from __future__ import annotations

import asyncio
import os
import select
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slipway._model.events import Ended, Output, PhaseEnded, PhaseStarted, Queued, Started
from slipway._model.options import Options
from slipway._model.result import (
    Captured,
    PhaseResult,
    Provenance,
    Result,
    Timing,
    Usage,
    Verdict,
)
from slipway._model.run_request import RunRequest
from slipway._remote.blocking_api import BlockingApi
from slipway._remote.blocking_run import BlockingRun
from slipway._util.errors import Busy, HostError, SlipwayError, UnknownOutcome
from slipway._wire.events import encode_event_and_files
from slipway._wire.fields import decode_data, decode_line, encode_line
from support.scripted_server import STARTED, ScriptedServer, listening, saying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway._model.events import Event

PHASE = PhaseResult(Verdict.OK, 0, 0, Usage(1.0, 0.5, 0.5, 4096, 1), Captured(b"", 4), Captured())
RESULT = Result(
    "python", None, PHASE, (), Timing(), Provenance("kvm", "6.1", "python", "abc", "1", 1, 1)
)
EVENTS: list[Event] = [
    Queued(1),
    Started("kvm"),
    PhaseStarted("run"),
    Output("run", "stdout", b"ab"),
    Output("run", "stdout", b"\xff\n"),
    PhaseEnded("run", PHASE),
    Ended(RESULT),
]


def lines(*events: Event) -> bytes:
    records = (record for event in events for record in encode_event_and_files(event))
    return b"".join(map(encode_line, records))


STREAM = lines(*EVENTS)


class PollWaiter:
    """Waiter that nothing interrupts."""

    def wait(self, descriptor: int, events: int, seconds: float | None) -> bool:
        poll = select.poll()
        if descriptor >= 0:
            poll.register(descriptor, events)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    @contextmanager
    def shield(self) -> Iterator[None]:
        yield


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, as Unix sockets need it."""
    with tempfile.TemporaryDirectory(prefix="slipway-") as path:
        yield Path(path)


async def call(function: Callable[[], Any]) -> Any:
    """Call a function that blocks while the server plays in our loop."""
    return await asyncio.to_thread(function)


def api_of(server: ScriptedServer, timeout: float = 30, owner: int | None = None) -> BlockingApi:
    return BlockingApi(str(server.path), timeout, PollWaiter(), owner)


def start_run(server: ScriptedServer, stdin: bytes | None = b"") -> BlockingRun:
    return BlockingRun.start(api_of(server), RunRequest(b"print(1)", "python", Options(), stdin))


def read_events(server: ScriptedServer) -> list[Event]:
    with start_run(server) as run:
        return list(events_of(run))


def events_of(run: BlockingRun) -> Iterator[Event]:
    event = None
    while not isinstance(event, Ended):
        event = run.read_event()
        yield event


async def test_events_come_whatever_the_pieces_are(directory: Path) -> None:
    async def dribble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(STREAM), 7):
            writer.write(STREAM[start : start + 7])
            await writer.drain()
            await asyncio.sleep(0)

    async with ScriptedServer(directory, dribble) as server:
        assert await call(lambda: read_events(server)) == EVENTS

    assert server.targets() == [("POST", "/v1/start")]


@pytest.mark.parametrize("cut", range(0, len(STREAM), 211))
async def test_broken_stream_continues_at_its_last_line(directory: Path, cut: int) -> None:
    offset = STREAM[:cut].rfind(b"\n") + 1
    async with ScriptedServer(directory, saying(STREAM[:cut]), saying(STREAM[offset:])) as server:
        assert await call(lambda: read_events(server)) == EVENTS

    assert server.targets()[1:] == [("POST", f"/v1/runs/run-1/resume?offset={offset}")]


async def test_stream_that_always_breaks_is_given_up(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        with pytest.raises(UnknownOutcome, match="the output ended 5 times"):
            await call(lambda: read_events(server))


async def test_broken_stream_after_stdin_is_an_unknown_outcome(directory: Path) -> None:
    async def read_a_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()

    def write_and_read() -> None:
        with start_run(server, None) as run:
            run.write_stdin(b"input")
            run.read_event()

    async with ScriptedServer(directory, read_a_line) as server:
        with pytest.raises(UnknownOutcome, match="stdin is not known"):
            await call(write_and_read)


async def test_stdin_arrives_whole_and_ends(directory: Path) -> None:
    taken = bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (record := decode_line(await reader.readline()))["type"] == "stdin":
            taken.extend(decode_data(record))
        taken.extend(record["type"].encode())
        writer.write(STREAM)
        await writer.drain()

    def write_and_read() -> None:
        with start_run(server, None) as run:
            assert run.write_stdin(data)
            assert run.write_stdin(b"")
            assert list(events_of(run)) == EVENTS
            assert not run.write_stdin(b"more")

    data = b"\xff\n" * 200_000
    async with ScriptedServer(directory, take) as server:
        await call(write_and_read)

    assert bytes(taken) == data + b"stdin_end"
    assert server.asked[0][2]["interactive"] is True


async def test_run_that_is_left_early_is_cancelled(directory: Path) -> None:
    def leave() -> Event:
        with start_run(server) as run:
            return run.read_event()

    async with ScriptedServer(directory, listening(STREAM[:200])) as server:
        assert await call(leave) == EVENTS[0]

    assert server.targets()[1:] == [("DELETE", "/v1/runs/run-1")]


async def test_run_without_an_output_socket_is_ended(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        server.output.unlink()
        with pytest.raises(UnknownOutcome, match="cannot connect to the output"):
            await call(lambda: start_run(server))

    assert server.targets()[1:] == [("DELETE", "/v1/runs/run-1")]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"", UnknownOutcome, "went away while it handled POST /v1/start"),
        (b"HTTP/1.1 201 X\r\nContent-Length: 100\r\n\r\n{", UnknownOutcome, "went away"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n\r\n", UnknownOutcome, "invalid HTTP answer"),
        (b"HTTP/1.1 201 X\r\n\r\n" + b" " * 2_000_000, UnknownOutcome, "more than"),
        ((201, {**STARTED, "socket": "output"}), UnknownOutcome, "not the path of a socket"),
        ((429, {"type": "urn:slipway:busy", "detail": "full"}), Busy, "full"),
        ((500, None), HostError, "status 500"),
    ],
    ids=lambda value: repr(value)[:50],
)
async def test_refusals_and_lies_are_errors(
    directory: Path, answer: Any, error: type[SlipwayError], message: str
) -> None:
    async with ScriptedServer(directory) as server:
        server.answers["POST", "start"] = answer
        with pytest.raises(error, match=message):
            await call(lambda: start_run(server))


async def test_silent_server_is_left_after_the_time_limit(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        server.hold.clear()
        with pytest.raises(UnknownOutcome, match=r"did not answer GET /v1/health within 0\.05 s"):
            await call(lambda: api_of(server, 0.05).request("GET", "/v1/health"))


async def test_server_that_refuses_a_body_early_is_heard(directory: Path) -> None:
    refusal = b'{"type":"urn:slipway:content-too-large","detail":"too long"}'

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 413 X\r\nContent-Length: %d\r\n\r\n" % len(refusal)
        writer.write(head + refusal)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(refuse, directory / "api")
    api = BlockingApi(str(directory / "api"), 30, PollWaiter())
    async with server:
        with pytest.raises(SlipwayError, match="too long"):
            await call(lambda: api.request("POST", "/v1/start", {"source": "x" * 3_000_000}))


async def test_server_of_another_user_is_refused(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        await call(lambda: api_of(server, owner=os.geteuid()).request("GET", "/v1/health"))
        with pytest.raises(HostError, match="belongs to another user"):
            await call(lambda: api_of(server, owner=os.geteuid() + 1).request("GET", "/v1/health"))

    assert server.targets() == [("GET", "/v1/health")]
