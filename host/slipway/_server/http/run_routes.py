"""Routes about runs that have been started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002  # FastAPI looks it up
from starlette.responses import Response, StreamingResponse

from slipway._model.errors import InputError
from slipway._server import problems
from slipway._server.http.request_context import (
    json_of,
    json_response,
    peer_of,
    query_of,
    service_of,
)
from slipway._server.kept.commands import signal_number
from slipway._server.kept.retention import NoLongerKept
from slipway._server.problems import Problem, Refusal
from slipway._wire.request_models import ResumeQuery, SignalBody, TerminalSize

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._server.kept.kept_run import KeptRun

# Of a file, what is given to a connection at once, in bytes.
_SLICE = 256 * 1024


class Octets(StreamingResponse):
    """Bytes of a program's."""

    media_type = "application/octet-stream"


async def list_runs(request: Request) -> Response:
    """GET /v1/runs."""
    runs = service_of(request).runs.listing(peer_of(request))
    return json_response({"runs": [run.record() for run in runs]})


async def get_run(request: Request, id: str) -> Response:
    """GET /v1/runs/{id}."""
    return json_response(_find(request, id).record())


async def end_run(request: Request, id: str) -> Response:
    """DELETE /v1/runs/{id}."""
    await _find(request, id).remove()
    return Response(status_code=204)


async def get_file(request: Request, id: str, path: str) -> Response:
    """GET /v1/runs/{id}/files/{path}."""
    file = _find(request, id).file(path)
    if file is None or file.data is None:
        missing = file.missing if file is not None else "it was not asked for, or the run goes on"
        raise Refusal(Problem(404, "not-found", f"there is no file {path!r:.80}: {missing}"))
    return Octets(_split(file.data), headers={"content-length": str(len(file.data))})


async def _split(data: bytes) -> AsyncIterator[memoryview]:
    """Not more at once than a client has taken: many may ask for one large file and not read."""
    for start in range(0, len(data), _SLICE):
        yield memoryview(data)[start : start + _SLICE]


async def send_signal(request: Request, id: str) -> Response:
    """POST /v1/runs/{id}/signal."""
    run = _find(request, id)
    number = signal_number((await json_of(request, SignalBody)).signal)
    try:
        await run.signal(number)
    except InputError as error:  # the number is one; so there is nobody to send it to
        raise Refusal(Problem(409, "conflict", error.message, error.hint)) from None
    return Response(status_code=204)


async def resize_terminal(request: Request, id: str) -> Response:
    """The program hears SIGWINCH. A run that has ended is left as it is."""
    run = _find(request, id)
    size = await json_of(request, TerminalSize)
    try:
        await run.resize(size.rows, size.columns)
    except InputError as error:  # the size has been checked: it is the terminal that is missing
        raise Refusal(Problem(409, "conflict", error.message, error.hint)) from None
    return Response(status_code=204)


async def resume_output(request: Request, id: str) -> Response:
    """Who is connected is cut off."""
    query = query_of(request, ResumeQuery)
    run = _find(request, id)
    try:
        run.resume(query.offset)
    except NoLongerKept as error:
        raise Refusal(Problem(410, "gone", error.message, error.hint)) from None
    return json_response({"socket": str(run.socket), "offset": query.offset})


def _find(request: Request, identifier: str) -> KeptRun:
    """The run, if the client may know of it. Raises Refusal."""
    run = service_of(request).runs.get(identifier, peer_of(request))
    if run is None:
        raise Refusal(problems.unknown_run(identifier))
    return run
