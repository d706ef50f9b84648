"""Routes that start runs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002  # FastAPI looks it up
from starlette.responses import Response  # noqa: TC002  # FastAPI looks it up

from slipway._model.key import check_key
from slipway._model.options import MAX_SOURCE, MIB
from slipway._model.result import Result
from slipway._server.http import job_request as jobs
from slipway._server.http import response_models as documents
from slipway._server.http import server_sent_events as event_stream
from slipway._server.http.disconnect import attended
from slipway._server.http.request_context import (
    is_json,
    json_response,
    media_type_of,
    peer_of,
    query_of,
    service_of,
)
from slipway._server.http.server_sent_events import EventStream, end
from slipway._server.kept.retention import Terms
from slipway._server.problems import Problem, Refusal
from slipway._wire.request_models import RunBody, RunQuery, StartBody, StartQuery
from slipway._wire.results import encode_result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._local.execution import LocalExecution
    from slipway._server.http.job_request import Job
    from slipway._server.http.metrics import Metrics
    from slipway._server.http.request_bodies import Body
    from slipway._server.http.request_context import Service
    from slipway._wire.request_models import (
        SessionRunBody,
        SessionRunQuery,
        SessionStartBody,
        SessionStartQuery,
    )

    Begin = Callable[[Job], Awaitable[LocalExecution]]

KEY_FIELD = "Slipway-Key"
# Bytes of output, of each stream, that an answer may hold: it is put together in memory.
MAX_ANSWERED = 16 * MIB


async def start_run(request: Request) -> Response:
    """The body is the source, or JSON: a whole job.

    A thing that is given in the query and in the body as well has to be the same in both.
    """
    return await answer_start(request, StartQuery, StartBody, _use_new_machine(request))


async def run_program(request: Request) -> Response:
    """The body is the source, or JSON: a whole job.

    Whatever the verdict, the answer is 200. A client that goes away cancels its run. With
    ``Accept: text/event-stream`` the events come as Server-Sent Events, as they happen.
    """
    return await answer_run(request, RunQuery, RunBody, _use_new_machine(request))


async def answer_start(
    request: Request,
    query: type[SessionStartQuery],
    kind: type[SessionStartBody],
    begin: Begin,
    session: str = "",
) -> Response:
    """Have the run that is asked for kept, in the machine where ``begin`` starts it."""
    service, peer = service_of(request), peer_of(request)
    service.check_taking()
    service.runs.check_room()
    body, job = await _read_job(request, query_of(request, query), kind)
    try:
        execution = await _begin(service, begin, job, body)
        terms = Terms(peer.uid, job.stream, job.detached, session)
        run = await service.runs.start(execution, terms)
    except BaseException:
        body.release()
        raise
    record = run.record()
    answer = {name: record[name] for name in documents.StartedDocument.model_fields}
    return json_response(answer, 201, {"location": f"/v1/runs/{run.id}"})


async def answer_run(
    request: Request,
    query: type[SessionRunQuery],
    kind: type[SessionRunBody],
    begin: Begin,
) -> Response:
    """Answer with the result or the events of the run that is asked for; see answer_start."""
    service = service_of(request)
    service.check_taking()
    body, job = await _read_job(request, query_of(request, query), kind)
    streaming = event_stream.MEDIA_TYPE in request.headers.get("accept", "")
    try:
        if not streaming:
            _check_answer(job)
        execution = await _begin(service, begin, job, body)
    except BaseException:
        body.release()
        raise
    if streaming:
        return EventStream(execution)
    try:
        result = await attended(request.receive, execution.wait())
        return json_response(encode_result(result, output=True, files=True))
    finally:
        await end(execution)


def read_key(request: Request) -> str:
    """Return the key of a client, made different from those of other users.

    Raises:
        InputError: it is too long, or has other characters than printable ASCII.
    """
    key = check_key(request.headers.get(KEY_FIELD, ""), KEY_FIELD)
    return hashlib.sha256(f"{peer_of(request).uid}/{key}".encode()).hexdigest()


def _use_new_machine(request: Request) -> Begin:
    """Starts or queues jobs, each in a machine of its own."""
    runtime, key = service_of(request).runtime, read_key(request)

    async def begin(job: Job) -> LocalExecution:
        return await runtime.start(
            job.source, job.language, stdin=job.stdin, key=key, **job.options
        )

    return begin


def _check_answer(job: Job) -> None:
    """Check that the output fits into one answer. Raises Refusal."""
    limit = job.options.get("output_limit")
    if limit is not None and limit > MAX_ANSWERED:
        raise Refusal(
            Problem(
                422,
                "input-error",
                f"output_limit is {limit}, and one answer may have {MAX_ANSWERED} of each stream",
                "Take the output as it comes: POST /v1/start, or Accept: text/event-stream.",
            )
        )


async def _begin(service: Service, begin: Begin, job: Job, body: Body) -> LocalExecution:
    """Start or queue ``job``; at its end its ``body`` is released, and the run counted."""
    execution = await begin(job)
    execution.when_over(lambda _: _count_run(service.metrics, execution, body))
    return execution


def _count_run(metrics: Metrics, execution: LocalExecution, body: Body) -> None:
    body.release()
    if isinstance(execution.outcome, Result):
        metrics.ended(execution.outcome)
    elif execution.outcome is not None:
        metrics.failed(execution.language, execution.outcome)


async def _read_job(
    request: Request, query: SessionRunQuery, kind: type[SessionRunBody]
) -> tuple[Body, Job]:
    """Read the body, and put the job together."""
    media_type = media_type_of(request)
    # A form's type is what curl says of each body that it is not told of.
    text = not is_json(media_type)
    if media_type.startswith("multipart/"):
        raise Refusal(
            Problem(
                415,
                "unsupported-media-type",
                f"the body is {media_type!r:.80}, and has to be the source alone",
                "curl --data-binary @FILE sends it as it is; files beside it go in a job as JSON.",
            )
        )
    service = service_of(request)
    limit = MAX_SOURCE if text else service.body_limit
    body = await service.bodies.read(request.receive, request.headers.get("content-length"), limit)
    try:
        data = body.take()
        if text:
            return body, jobs.job_of_text(data, query)
        return body, jobs.job_of_json(data, query, kind)
    except BaseException:
        body.release()
        raise
