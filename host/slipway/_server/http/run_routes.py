"""Routes about runs that the server keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002  # FastAPI looks it up
from starlette.responses import Response, StreamingResponse

from slipway._server.http import response_models as documents
from slipway._server.http.openapi import (
    describe_json_body,
    describe_problems,
    describe_query,
)
from slipway._server.http.request_context import (
    build_json_response,
    get_peer,
    get_service,
    read_json,
    read_query,
)
from slipway._server.http.routing import create_router
from slipway._server.kept.command_reader import parse_signal
from slipway._server.kept.retention import NoLongerKept
from slipway._server.kept.run_record import build_run_record
from slipway._server.problems import NotFound, Problem, Refusal
from slipway._util.errors import InputError
from slipway._wire.option_models import TerminalSize
from slipway._wire.request_models import ResumeQuery, SignalBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._server.kept.kept_run import KeptRun

# Bytes of a file that are passed to a connection at once.
_SLICE = 256 * 1024

router = create_router("runs")


class Octets(StreamingResponse):
    """Response with bytes that a program has written."""

    media_type = "application/octet-stream"


@router.get(
    "/v1/runs",
    summary="List the runs that the client may see",
    response_model=documents.RunsDocument,
    responses=describe_problems(),
)
async def list_runs(request: Request) -> Response:
    """List own runs, the oldest first; root and the server's user see all."""
    runs = get_service(request).runs.list_visible(get_peer(request))
    return build_json_response({"runs": [build_run_record(run) for run in runs]})


@router.get(
    "/v1/runs/{id}",
    summary="Get one run",
    response_model=documents.RunDocument,
    responses=describe_problems(404, 422),
)
async def get_run(request: Request, id: str) -> Response:
    """Return the run's state, and at its end the result without output and files."""
    return build_json_response(build_run_record(_find_run(request, id)))


@router.delete(
    "/v1/runs/{id}",
    summary="End a run; its output can still be read",
    status_code=204,
    response_class=Response,
    responses=describe_problems(404, 422),
)
async def end_run(request: Request, id: str) -> Response:
    """Cancel a run and wait until its machine is gone. A run that has ended is forgotten."""
    await _find_run(request, id).remove()
    return Response(status_code=204)


@router.get(
    "/v1/runs/{id}/files/{path:path}",
    summary="Get an output file of a run that has ended",
    response_class=Octets,
    responses=describe_problems(404, 422),
)
async def get_file(request: Request, id: str, path: str) -> Response:
    """Return the content of one of the files that ``outputs`` asked for."""
    file = _find_run(request, id).find_file(path)
    if file is None or file.data is None:
        reason = file.missing if file is not None else "not requested, or the run has not ended"
        raise NotFound(
            f"file {path!r:.80} not found: {reason}", "Name output files in the job: outputs."
        )
    return Octets(_split(file.data), headers={"content-length": str(len(file.data))})


async def _split(data: bytes) -> AsyncIterator[memoryview]:
    """Yield a file piece by piece.

    So no more is copied than a client has taken: many may request one large file and not read.
    """
    for start in range(0, len(data), _SLICE):
        yield memoryview(data)[start : start + _SLICE]


@router.post(
    "/v1/runs/{id}/signal",
    summary="Send a signal to the program of the current phase",
    status_code=204,
    response_class=Response,
    responses=describe_problems(404, 408, 409, 413, 415, 422, 429, 502),
    openapi_extra=describe_json_body(SignalBody),
)
async def send_signal(request: Request, id: str) -> Response:
    """Send a signal to the program and all processes that it has started."""
    run = _find_run(request, id)
    number = parse_signal((await read_json(request, SignalBody)).signal)
    try:
        await run.signal(number)
    except InputError as error:  # the number is valid, so no program is running
        raise Refusal(Problem(409, "conflict", error.message, error.hint)) from None
    return Response(status_code=204)


@router.post(
    "/v1/runs/{id}/resize",
    summary="Set the size of the program's terminal",
    status_code=204,
    response_class=Response,
    responses=describe_problems(404, 408, 409, 413, 415, 422, 429, 502),
    openapi_extra=describe_json_body(TerminalSize),
)
async def resize_terminal(request: Request, id: str) -> Response:
    """Set the terminal's size; the program receives SIGWINCH. Of an ended run nothing changes."""
    run = _find_run(request, id)
    size = await read_json(request, TerminalSize)
    try:
        await run.resize(size.rows, size.columns)
    except InputError as error:  # the size is valid, so the run has no terminal
        raise Refusal(Problem(409, "conflict", error.message, error.hint)) from None
    return Response(status_code=204)


@router.post(
    "/v1/runs/{id}/resume",
    summary="Choose the byte of the stream at which the next connection begins",
    response_model=documents.ResumedDocument,
    responses=describe_problems(404, 410, 422),
    openapi_extra={"parameters": describe_query(ResumeQuery)},
)
async def resume_output(request: Request, id: str) -> Response:
    """Set where the next connection to the output socket begins. The current one is closed."""
    query = read_query(request, ResumeQuery)
    run = _find_run(request, id)
    try:
        run.resume(query.offset)
    except NoLongerKept as error:
        raise Refusal(Problem(410, "gone", error.message, error.hint)) from None
    return build_json_response({"socket": str(run.socket), "offset": query.offset})


def _find_run(request: Request, identifier: str) -> KeptRun:
    """Return the run.

    Raises:
        Refusal: the id is unknown, or the run of another user.
    """
    run = get_service(request).runs.find(identifier, get_peer(request))
    if run is None:
        raise NotFound(
            f"run {identifier!r:.80} not found", "It may have ended long ago. See: GET /v1/runs"
        )
    return run
