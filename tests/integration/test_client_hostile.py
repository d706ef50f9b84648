"""Clients of servers that lie, stall, break off and go away."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import slipway
from slipway import AsyncClient, Output, PhaseEnded, PhaseStarted, Queued, Started
from slipway._model.options import MAX_SOURCE
from slipway._model.result import Captured, Provenance, Timing, Usage
from slipway._wire.errors import encode_error
from slipway._wire.events import encode_event_and_files
from slipway._wire.fields import decode_data, decode_line, encode_line
from support.scripted_server import STARTED, ScriptedServer, listening, saying
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

USAGE = Usage(1.0, 0.5, 0.5, 4096, 1)
PHASE = slipway.PhaseResult(slipway.Verdict.OK, 0, 0, USAGE, Captured(b"", 4), Captured())
RESULT = slipway.Result(
    "python", None, PHASE, (), Timing(), Provenance("kvm", "6.1", "python", "abc", "1", 1, 1)
)
CANCELLED = slipway.Result("python", None, None, (), Timing(), RESULT.provenance)
EVENTS: list[Any] = [
    Queued(1),
    Started("kvm"),
    PhaseStarted("run"),
    Output("run", "stdout", b"ab"),
    Output("run", "stdout", b"\xff\n"),
    PhaseEnded("run", PHASE),
    slipway.Ended(RESULT),
]


def lines(*events: Any) -> bytes:
    records = (record for event in events for record in encode_event_and_files(event))
    return b"".join(map(encode_line, records))


STREAM = lines(*EVENTS)
RUNNING = lines(*EVENTS[:4])


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, as Unix sockets need it; no descriptor may stay open."""
    before = psutil.Process().num_fds()
    with tempfile.TemporaryDirectory(prefix="slipway-") as path:
        yield Path(path)
    gc.collect()
    assert psutil.Process().num_fds() <= before


async def start_run(server: ScriptedServer, **options: Any) -> slipway.AsyncExecution:
    """A run on ``server`` by a client that stays open no longer than its calls."""
    return await AsyncClient(server.path).start("print(1)", "python", **options)


async def test_says_how_to_start_a_server_where_none_listens(directory: Path) -> None:
    async with AsyncClient(directory / "api") as client:
        with pytest.raises(slipway.HostError, match="no server listens at") as caught:
            await client.run("print(1)", "python")

    assert caught.value.hint == f"Start one: slipway serve --api-sock {directory / 'api'}"


async def test_file_is_no_socket(directory: Path) -> None:
    path = directory / "file"
    path.write_text("")

    with pytest.raises(slipway.HostError, match="is no socket"):
        await AsyncClient(path).languages()


async def test_stale_socket_is_no_server(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        pass

    assert server.path.exists()
    with pytest.raises(slipway.HostError, match="no server listens at"):
        await AsyncClient(server.path).languages()


async def test_does_not_wait_for_ever_for_an_answer(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        server.hold.clear()

        with pytest.raises(slipway.UnknownOutcome, match=r"did not answer GET .* within 0\.05 s"):
            await AsyncClient(server.path, timeout=0.05).languages()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 201 X\r\nContent-Length: 100\r\n\r\n{",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 201 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 201 X\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:30]),
)
async def test_answer_that_is_no_http_is_an_unknown_outcome(directory: Path, answer: bytes) -> None:
    async with ScriptedServer(directory) as server:
        server.answers["POST", "start"] = answer

        with pytest.raises(slipway.UnknownOutcome, match=r"went away while|broke the protocol"):
            await start_run(server)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 201 X\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 201 X\r\nContent-Length: 4\r\n\r\nnull",
        b"HTTP/1.1 201 X\r\n\r\n" + b" " * 2_000_000,
        b"HTTP/1.1 201 X\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        (201, {}),
        (201, {**STARTED, "socket": 1}),
        (201, {**STARTED, "socket": "output"}),
        (201, {**STARTED, "socket": "/" + "x" * 107}),
        (201, {**STARTED, "socket": "/a\0b"}),
        (201, {**STARTED, "socket": "/a", "id": "../../health"}),
        (201, {**STARTED, "socket": "/a", "id": ""}),
        (201, {**STARTED, "socket": "/a", "state": "dreaming"}),
        (201, {**STARTED, "socket": "/a", "position": -1}),
    ],
    ids=lambda answer: repr(answer)[-60:],
)
async def test_answer_that_tells_of_no_run_is_an_unknown_outcome(
    directory: Path, answer: Any
) -> None:
    async with ScriptedServer(directory) as server:
        server.answers["POST", "start"] = answer

        with pytest.raises(slipway.UnknownOutcome, match="the server") as caught:
            await start_run(server)

    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (422, "input-error", slipway.InputError),
        (429, "busy", slipway.Busy),
        (503, "draining", slipway.Busy),
        (503, "host-error", slipway.HostError),
        (503, "image-error", slipway.ImageError),
        (502, "unknown-outcome", slipway.UnknownOutcome),
        (500, "internal-error", slipway.HostError),
        (413, "content-too-large", slipway.InputError),
        (403, "forbidden", slipway.HostError),
    ],
)
async def test_problems_are_raised_as_the_errors_that_they_are(
    directory: Path, status: int, kind: str, error: type[slipway.SlipwayError]
) -> None:
    async with ScriptedServer(directory) as server:
        server.answers["POST", "start"] = (
            status,
            {"type": f"urn:slipway:{kind}", "detail": "it\x1b", "hint": "do", "retry_after": 7},
        )

        with pytest.raises(error) as caught:
            await start_run(server)

    assert type(caught.value) is error
    assert (caught.value.message, caught.value.hint) == ("it ", "do")
    assert getattr(caught.value, "retry_after", 7) == 7


async def test_refusal_without_a_problem_is_told_by_its_status(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        server.answers["POST", "start"] = 418, None

        with pytest.raises(slipway.InputError, match="the server refused with status 418"):
            await start_run(server)


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("x" * (MAX_SOURCE + 1), {}, "the source has"),
        ("x", {"stdin": 5}, "stdin is 5"),
        ("x", {"store": "/tmp"}, "store is the server's"),
        ("x", {"boot_log": True}, "not available on a server"),
        ("x", {"colour": 1}, "colour"),
        ("x", {"timeout": -1}, "timeout is -1.0"),
        ("x", {"timeout": "1"}, "timeout is '1'"),
        ("x", {"files": ("a",)}, r"files\[0\] is 'a'"),
        ("x", {"arguments": "abc"}, "arguments is one text"),
        ("x", {"key": "a\r\nX: y"}, "invalid key"),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_what_cannot_be_run_is_refused_before_a_server_is_asked(
    tmp_path: Path, source: str, arguments: Any, message: str
) -> None:
    async with AsyncClient(tmp_path / "no-server") as client:
        with pytest.raises(slipway.InputError, match=message):
            await client.start(source, "python", **arguments)


async def test_events_come_however_the_stream_is_cut_into_pieces(directory: Path) -> None:
    async def dribble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(STREAM), 7):
            writer.write(STREAM[start : start + 7])
            await writer.drain()
            await asyncio.sleep(0)

    async with ScriptedServer(directory, dribble) as server:
        execution = await start_run(server)

        assert [event async for event in execution] == EVENTS
        assert execution.state == "ended"


@pytest.mark.parametrize("cut", range(0, len(STREAM), 97))
async def test_broken_stream_goes_on_where_it_broke(directory: Path, cut: int) -> None:
    whole = STREAM[:cut].rpartition(b"\n")[0]
    offset = len(whole) + 1 if whole else 0
    async with ScriptedServer(directory, saying(STREAM[:cut]), saying(STREAM[offset:])) as server:
        execution = await start_run(server)

        assert [event async for event in execution] == EVENTS

    assert server.targets()[1:] == [("POST", f"/v1/runs/run-1/resume?offset={offset}")]


async def test_stream_that_never_goes_on_is_given_up(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        execution = await start_run(server)

        with pytest.raises(slipway.UnknownOutcome, match="the output ended 5 times"):
            await execution.wait()

    assert server.connections == 6


async def test_server_that_goes_away_leaves_what_had_come(directory: Path) -> None:
    async with ScriptedServer(directory, listening(RUNNING)) as server:
        execution = await start_run(server)
        waiting = asyncio.create_task(execution.wait())
        await wait_until(lambda: execution.state == "running", "the program runs")
        await server.stop()

        with pytest.raises(slipway.UnknownOutcome, match="went away while the program ran") as told:
            await waiting

    assert told.value.stdout == b"ab"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((410, {"detail": "byte 0 is no longer kept"}), "lost the run: byte 0 is no longer kept"),
        ((404, None), "lost the run"),
        ((200, {"socket": "/x", "offset": 1}), "resumes at another offset"),
        ((200, {"socket": "x", "offset": 0}), "not the path of a socket"),
        ((200, {"socket": "/nonexistent/x", "offset": 0}), "cannot connect to the output"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_stream_that_cannot_go_on_is_an_unknown_outcome(
    directory: Path, answer: Any, message: str
) -> None:
    async with ScriptedServer(directory) as server:
        server.answers["POST", "resume"] = answer
        execution = await start_run(server)

        with pytest.raises(slipway.UnknownOutcome, match=message):
            await execution.wait()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b'{"type":"queued","position":' + b"1" * 2_000_000, "a line has more than"),
        (b"\0" * 2_000_000, "a line has more than"),
        (b"not json\n", "is not a line of JSON"),
        (b"[]\n", "is not a JSON object"),
        (b"\n", "is not a line of JSON"),
        ([PhaseEnded("run", PHASE)], "out of order"),
        (b'{"type":"refused","message":"what?"}\n', "a command was refused: what?"),
        (
            [PhaseStarted("run"), *[Output("run", "stdout", b"x" * 120_000)] * 600],
            "stdout has more than 67108864 bytes",
        ),
    ],
    ids=lambda value: repr(value[:1] if isinstance(value, list) else value[:30])[:30],
)
async def test_stream_that_is_none_ends_the_handle(
    directory: Path, said: bytes | list[Any], message: str
) -> None:
    script = said if isinstance(said, bytes) else lines(*said)
    async with ScriptedServer(directory, listening(script)) as server:
        execution = await start_run(server)

        with pytest.raises(slipway.UnknownOutcome, match=message):
            await execution.wait()

        await wait_until(server.left.is_set, "the client has hung up")


async def test_failure_that_the_server_tells_is_raised(directory: Path) -> None:
    failed = encode_line({"type": "failed", **encode_error(slipway.ImageError("no", "do"))})
    async with ScriptedServer(directory, saying(failed)) as server:
        execution = await start_run(server)

        with pytest.raises(slipway.ImageError, match="no"):
            await execution.wait()
        with pytest.raises(slipway.ImageError, match="no"):
            await execution.wait()


async def test_output_socket_that_is_not_there_ends_the_run(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        server.output.unlink()

        with pytest.raises(slipway.UnknownOutcome, match="cannot connect to the output"):
            await start_run(server)

    assert server.targets()[1:] == [("DELETE", "/v1/runs/run-1")]


async def test_nothing_is_read_before_it_is_asked_for(directory: Path) -> None:
    sent = 0
    stalled = asyncio.Event()
    flood = lines(*[Output("run", "stdout", b"x" * 60_000)] * 100)

    async def send(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(RUNNING)
        writer.transport.set_write_buffer_limits(0)
        for start in range(0, len(flood), 4096):
            writer.write(flood[start : start + 4096])
            if writer.transport.get_write_buffer_size():
                stalled.set()
            await writer.drain()
            sent += 4096
        writer.write(lines(*EVENTS[-2:]))
        await writer.drain()

    async with ScriptedServer(directory, send) as server:
        execution = await start_run(server)
        await wait_until(stalled.is_set, "the server cannot send more")

        assert sent < 1024 * 1024
        assert len((await execution.wait()).run.stdout.data) == 6_000_002  # type: ignore[union-attr]


async def test_leaving_a_handle_ends_its_run_and_keeps_its_result(directory: Path) -> None:
    async def end_when_told(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(RUNNING)
        await wait_until(
            lambda: ("DELETE", "/v1/runs/run-1") in server.targets(), "the run is to end"
        )
        writer.write(lines(slipway.Ended(CANCELLED)))
        await writer.drain()

    async with ScriptedServer(directory, end_when_told) as server:
        async with await start_run(server) as execution:
            assert await anext(execution) == EVENTS[0]

        result = await execution.wait()

    assert result.verdict == "cancelled"
    assert server.targets()[1:] == [("DELETE", "/v1/runs/run-1")]


async def test_output_without_end_of_a_cancelled_run_is_not_taken(directory: Path) -> None:
    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(RUNNING)
        while True:
            writer.write(lines(Output("run", "stdout", b"x" * 60_000)))
            await writer.drain()

    async with ScriptedServer(directory, flood) as server:
        execution = await start_run(server)
        await execution.cancel()

        with pytest.raises(slipway.UnknownOutcome, match="does not end"):
            await execution.wait()


async def test_closing_a_client_ends_its_runs(directory: Path) -> None:
    async with ScriptedServer(directory, saying(lines(slipway.Ended(CANCELLED)))) as server:
        async with AsyncClient(server.path) as client:
            execution = await client.start("print(1)", "python")

        assert execution.state == "ended"
        with pytest.raises(slipway.InputError, match="the client has been closed"):
            await client.start("print(1)", "python")

    assert server.targets()[1:] == [("DELETE", "/v1/runs/run-1")]


async def test_cancelled_while_it_starts_ends_what_was_started(directory: Path) -> None:
    async with ScriptedServer(directory) as server:
        server.hold.clear()
        task = asyncio.create_task(start_run(server))
        await wait_until(server.arrived.is_set, "a request has arrived")
        task.cancel()
        server.hold.set()

        with pytest.raises(asyncio.CancelledError):
            await task

    assert server.targets() == [("POST", "/v1/start"), ("DELETE", "/v1/runs/run-1")]


async def test_stdin_that_may_have_been_lost_is_an_unknown_outcome(directory: Path) -> None:
    async def read_a_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(RUNNING)
        await reader.readline()

    async with ScriptedServer(directory, read_a_line) as server:
        execution = await start_run(server, stdin=None)
        await execution.stdin.write(b"input")

        with pytest.raises(slipway.UnknownOutcome, match="stdin is not known"):
            await execution.wait()


async def test_stdin_that_nobody_reads_any_more_is_dropped(directory: Path) -> None:
    async with ScriptedServer(directory, saying(STREAM)) as server:
        execution = await start_run(server, stdin=None)
        await wait_until(server.left.is_set, "the client has hung up")

        await execution.stdin.write(b"x" * 1_000_000)
        await execution.stdin.close()
        await execution.stdin.close()

        assert (await execution.wait()).ok
        with pytest.raises(slipway.InputError, match="stdin has been closed"):
            await execution.stdin.write(b"x")


async def test_error_of_the_iterator_of_stdin_ends_the_run(directory: Path) -> None:
    async def stdin() -> AsyncIterator[bytes]:
        yield b"first"
        raise ZeroDivisionError("by zero")

    async with ScriptedServer(directory, listening(RUNNING)) as server:
        execution = await start_run(server, stdin=stdin())

        with pytest.raises(slipway.InputError, match="ZeroDivisionError: by zero"):
            await execution.wait()

    assert server.targets()[1:] == [("DELETE", "/v1/runs/run-1")]


async def test_large_stdin_is_streamed_and_not_sent_with_the_job(directory: Path) -> None:
    taken = bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (record := decode_line(await reader.readline()))["type"] == "stdin":
            taken.extend(decode_data(record))
        taken.extend(record["type"].encode())
        writer.write(STREAM)
        await writer.drain()

    data = b"\xff\n" * 200_000
    async with ScriptedServer(directory, take) as server:
        await (await start_run(server, stdin=data)).wait()

    assert bytes(taken) == data + b"stdin_end"
    assert server.asked[0][2]["interactive"] is True
