"""Routes that start runs."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002  # FastAPI looks it up
from starlette.responses import Response  # noqa: TC002  # FastAPI looks it up

from slipway._api import documents, event_stream, models
from slipway._api.bodies import ClientGone
from slipway._api.event_stream import EventStream, client_left, end
from slipway._api.models import Job, RunBody, RunQuery, StartBody, StartQuery
from slipway._api.problems import Problem, Refusal
from slipway._api.service import (
    JSON,
    json_response,
    media_type_of,
    peer_of,
    query_of,
    service_of,
)
from slipway._api.terms import Terms
from slipway._request import MAX_SOURCE, MIB
from slipway._result import Result
from slipway._runtime import MAX_KEY
from slipway._wire import result_record

if TYPE_CHECKING:
    from slipway._api.bodies import Body
    from slipway._api.metrics import Metrics
    from slipway._api.peers import Peer
    from slipway._api.service import Service
    from slipway._local_execution import LocalExecution

_TEXT = {"text/plain", "application/octet-stream"}
KEY_FIELD = "Slipway-Key"
# Bytes of output, of each stream, that an answer may hold: it is put together in memory.
MAX_ANSWERED = 16 * MIB


async def start(request: Request) -> Response:
    """The body is the source, or JSON: a whole job.

    A thing that is given in the query is not to be given in the body as well.
    """
    service, peer = service_of(request), peer_of(request)
    service.check_taking()
    service.vms.check_room()
    query, key = query_of(request, StartQuery), _key(request)
    body, job = await _job(request, query, StartBody)
    try:
        execution = await _begin(service, peer, key, job, body)
        vm = await service.vms.start(execution, Terms(peer.uid, job.stream, job.detached))
    except BaseException:
        body.release()
        raise
    record = vm.record()
    answer = {name: record[name] for name in documents.StartedDocument.model_fields}
    return json_response(answer, 201, {"location": f"/v1/vms/{vm.id}"})


async def run(request: Request) -> Response:
    """The body is the source, or JSON: a whole job.

    Whatever the verdict, the answer is 200. A client that goes away cancels its run. With
    ``Accept: text/event-stream`` the events come as Server-Sent Events, as they happen.
    """
    service, peer = service_of(request), peer_of(request)
    service.check_taking()
    query, key = query_of(request, RunQuery), _key(request)
    body, job = await _job(request, query, RunBody)
    streaming = event_stream.MEDIA_TYPE in request.headers.get("accept", "")
    try:
        if not streaming:
            _check_answer(job)
        execution = await _begin(service, peer, key, job, body)
    except BaseException:
        body.release()
        raise
    if streaming:
        return EventStream(execution)
    waiting = asyncio.create_task(execution.wait())
    leaving = asyncio.create_task(client_left(request.receive))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientGone
        return json_response(result_record(await waiting, output=True, files=True))
    finally:
        for task in (waiting, leaving):
            task.cancel()
        await asyncio.gather(waiting, leaving, return_exceptions=True)
        await end(execution)


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


async def _begin(service: Service, peer: Peer, key: str, job: Job, body: Body) -> LocalExecution:
    """Start or queue ``job``; at its end its ``body`` is released, and the run counted."""
    execution = await service.runtime.start(
        job.source,
        job.language,
        stdin=job.stdin,
        key=_whose(peer, key),
        **job.options,
    )
    execution.when_over(lambda _: _count(service.metrics, execution, body))
    return execution


def _count(metrics: Metrics, execution: LocalExecution, body: Body) -> None:
    body.release()
    if isinstance(execution.outcome, Result):
        metrics.ended(execution.outcome)
    elif execution.outcome is not None:
        metrics.failed(execution.language, execution.outcome)


def _key(request: Request) -> str:
    """The key that the client chose. Raises Refusal."""
    key = request.headers.get(KEY_FIELD, "")
    if len(key) > MAX_KEY:
        raise Refusal(
            Problem(
                422,
                "input-error",
                f"{KEY_FIELD} has {len(key)} characters, and at most {MAX_KEY} may be",
            )
        )
    return key


def _whose(peer: Peer, key: str) -> str:
    """The key of a client's choice, so that nobody can take another user's turn."""
    return hashlib.sha256(f"{peer.uid}/{key}".encode()).hexdigest()


async def _job(request: Request, query: RunQuery, kind: type[RunBody]) -> tuple[Body, Job]:
    """Read the body, and put the job together."""
    media_type, text = media_type_of(request), True
    if media_type == JSON:
        text = False
    elif media_type not in _TEXT:
        raise Refusal(
            Problem(
                415,
                "unsupported-media-type",
                f"the body is {media_type!r:.80}",
                "Send a source as text/plain or application/octet-stream, a job as "
                f"{JSON}: curl -H 'Content-Type: text/plain' --data-binary @FILE",
            )
        )
    service = service_of(request)
    limit = MAX_SOURCE if text else service.body_limit
    body = await service.bodies.read(request.receive, request.headers.get("content-length"), limit)
    try:
        data = body.take()
        if text:
            return body, models.job_of_text(data, query)
        return body, models.job_of_json(data, query, kind)
    except BaseException:
        body.release()
        raise
