"""Routes that start runs, each with its own machine, and the steps that session routes share."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002  # FastAPI looks it up
from starlette.responses import Response, StreamingResponse

from slipway._model.network_ceiling import check_ceiling
from slipway._model.options import MAX_SOURCE
from slipway._model.result import Result
from slipway._server.http import response_models as documents
from slipway._server.http import run_request_parsing, server_sent_events
from slipway._server.http.disconnect import run_while_connected
from slipway._server.http.openapi import describe_problems, describe_run_request
from slipway._server.http.request_context import (
    JSON,
    build_json_response,
    get_peer,
    get_service,
    is_json,
    read_media_type,
    read_query,
    read_share,
)
from slipway._server.http.routing import create_router
from slipway._server.http.server_sent_events import EventStream, cancel_and_drain
from slipway._server.kept.retention import RunPolicy
from slipway._server.kept.run_record import build_run_record
from slipway._server.problems import InvalidRequest, Problem, Refusal
from slipway._util.units import MIB
from slipway._wire.json_pieces import iterate_json, join_pieces
from slipway._wire.request_models import RunBody, RunQuery, StartBody, StartQuery
from slipway._wire.results import encode_result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from slipway._local.execution import LocalExecution
    from slipway._model.run_request import RunRequest
    from slipway._server.http.metrics import Metrics
    from slipway._server.http.request_bodies import RequestBody
    from slipway._server.kept.retention import OutputChoice
    from slipway._wire.request_models import (
        SessionRunBody,
        SessionRunQuery,
        SessionStartBody,
        SessionStartQuery,
    )

    Starter = Callable[[RunRequest], Awaitable[LocalExecution]]

# Bytes of each output stream in one response, and of all files: all of them are in memory at once.
MAX_ANSWERED = 16 * MIB
# Bytes of a request that are parsed in the event loop, and of a result that are encoded there.
MAX_AT_ONCE = 64 * 1024

router = create_router("runs")


@dataclass(frozen=True, slots=True)
class StartForms:
    """Models of a request that starts a run with an output socket."""

    query: type[SessionStartQuery]
    body: type[SessionStartBody]


@dataclass(frozen=True, slots=True)
class RunForms:
    """Models of a request that is answered at the end of its run."""

    query: type[SessionRunQuery]
    body: type[SessionRunBody]


@router.post(
    "/v1/start",
    summary="Start a run with its own output socket",
    status_code=201,
    response_model=documents.StartedDocument,
    responses=describe_problems(403, 408, 413, 415, 422, 429),
    openapi_extra=describe_run_request(StartBody, StartQuery),
)
async def start_run(request: Request) -> Response:
    """Start or queue a run.

    The body is the source, or as JSON the whole job. A value that is both in the query and in the
    body must be the same in both.
    """
    return await answer_start(request, StartForms(StartQuery, StartBody), _use_new_machine(request))


@router.post(
    "/v1/run",
    summary="Run to the end, and answer with the result or a stream of events",
    response_model=documents.ResultDocument,
    responses=describe_problems(403, 408, 413, 415, 422, 429, 502),
    openapi_extra=describe_run_request(RunBody, RunQuery),
)
async def run_program(request: Request) -> Response:
    """Start or queue a run, and wait for its end.

    The body is the source, or as JSON the whole job. Every verdict is answered with 200. If the
    client leaves, the run is cancelled. With ``Accept: text/event-stream`` the response is the
    events, as they happen, as Server-Sent Events.
    """
    return await answer_run(request, RunForms(RunQuery, RunBody), _use_new_machine(request))


async def answer_start(
    request: Request, forms: StartForms, starter: Starter, session: str = ""
) -> Response:
    """Start a run with ``starter``, keep it, and answer with its id and output socket.

    ``session`` is the id of the session that the run is part of, if any.
    """
    service = get_service(request)
    service.check_open()
    share = read_share(request)
    service.runs.check_room(share)
    choice, execution = await _start(request, forms, starter)
    policy = RunPolicy(
        get_peer(request).uid, choice.stream, choice.detached, session, key=share.key
    )
    run = await service.runs.start(execution, policy)
    record = build_run_record(run)
    answer = {name: record[name] for name in documents.StartedDocument.model_fields}
    return build_json_response(answer, 201, {"location": f"/v1/runs/{run.id}"})


async def answer_run(request: Request, forms: RunForms, starter: Starter) -> Response:
    """Start a run with ``starter``, and answer with its result or its events."""
    get_service(request).check_open()
    streaming = server_sent_events.MEDIA_TYPE in request.headers.get("accept", "")
    _, execution = await _start(request, forms, starter if streaming else _bound_output(starter))
    if streaming:
        return EventStream(execution)
    try:
        result = await run_while_connected(request.receive, execution.wait())
        return await _build_answer(result)
    finally:
        await cancel_and_drain(execution)


async def _build_answer(result: Result) -> Response:
    """Return the response with ``result``; a long result is encoded in a thread, and streamed."""
    if _count_bytes(result) <= MAX_AT_ONCE:
        return build_json_response(encode_result(result, output=True, files=True))
    record = await asyncio.to_thread(encode_result, result, output=True, files=True)
    return StreamingResponse(_stream(iterate_json(record)), media_type=JSON)


async def _stream(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in join_pieces(pieces):
        yield piece
        # A client that reads fast never makes the connection wait; other requests have turns, too.
        await asyncio.sleep(0)


def _count_bytes(result: Result) -> int:
    """Return the bytes of output and files in ``result``."""
    phases = [phase for phase in (result.build, result.run) if phase is not None]
    output = sum(len(phase.stdout.data) + len(phase.stderr.data) for phase in phases)
    return output + sum(len(file.data or b"") for file in result.files)


def _use_new_machine(request: Request) -> Starter:
    """Return the starter of runs that each have a machine of their own."""
    service, share = get_service(request), read_share(request)
    runtime = service.runtime

    async def start(wanted: RunRequest) -> LocalExecution:
        check_ceiling(wanted.options.network, service.ceiling, "slipway serve")
        return await runtime.start_request(wanted, share)

    return start


def _bound_output(starter: Starter) -> Starter:
    """Return ``starter`` for runs whose output and files have to fit into one response."""

    async def start(wanted: RunRequest) -> LocalExecution:
        limit = wanted.options.output_limit
        if limit is not None and limit > MAX_ANSWERED:
            raise InvalidRequest(
                f"output_limit is {limit}, one response has at most {MAX_ANSWERED} of each stream",
                "Take the output while it comes: POST /v1/start, or Accept: text/event-stream.",
            )
        limit = wanted.options.fetch_limit
        if limit is not None and limit > MAX_ANSWERED:
            raise InvalidRequest(
                f"fetch_limit is {limit}, one response has at most {MAX_ANSWERED} of all files",
                "POST /v1/start, and GET /v1/runs/ID/files/PATH; or Accept: text/event-stream.",
            )
        if limit is None and wanted.options.outputs:
            options = replace(wanted.options, fetch_limit=MAX_ANSWERED)
            wanted = replace(wanted, options=options)
        return await starter(wanted)

    return start


async def _start(
    request: Request, forms: StartForms | RunForms, starter: Starter
) -> tuple[OutputChoice, LocalExecution]:
    """Read the request and start or queue its run.

    At the end of the run the body's share is released and the run is counted.
    """
    service = get_service(request)
    query = read_query(request, forms.query)
    media_type = _read_source_type(request)
    is_text = not is_json(media_type)
    limit = MAX_SOURCE if is_text else service.body_limit
    length = request.headers.get("content-length")
    body = await service.bodies.read(request.receive, length, limit, read_share(request))
    defaults = service.runtime.defaults
    with ExitStack() as stack:
        stack.callback(body.release)

        def parse() -> tuple[RunRequest, OutputChoice]:
            data = body.take()
            if is_text:
                return run_request_parsing.parse_text_request(data, query, defaults)
            return run_request_parsing.parse_json_request(data, query, forms.body, defaults)

        # 64 MiB of JSON take most of a second.
        at_once = body.size <= MAX_AT_ONCE
        wanted, choice = parse() if at_once else await asyncio.to_thread(parse)
        execution = await starter(wanted)
        stack.pop_all()
    execution.call_when_ended(lambda _: _count_run(service.metrics, execution, body))
    return choice, execution


def _count_run(metrics: Metrics, execution: LocalExecution, body: RequestBody) -> None:
    body.release()
    if isinstance(execution.outcome, Result):
        metrics.count_result(execution.outcome)
    elif execution.outcome is not None:
        metrics.count_failure(execution.language, execution.outcome)


def _read_source_type(request: Request) -> str:
    """Return the type of the body. Types other than JSON are source code.

    curl sends a form's type for every body without a type, so that this type is source code too.

    Raises:
        Refusal: the body is multipart, or JSON in an encoding other than UTF-8.
    """
    media_type = read_media_type(request)
    if media_type.startswith("multipart/"):
        raise Refusal(
            Problem(
                415,
                "unsupported-media-type",
                f"the body is {media_type!r:.80}, it must be the source alone",
                "Send it with curl --data-binary @FILE; other files go into a job as JSON.",
            )
        )
    return media_type
