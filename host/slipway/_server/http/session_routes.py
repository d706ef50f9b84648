"""Routes about sessions: machines that are kept for several runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002  # FastAPI looks it up
from starlette.responses import Response

from slipway._model.network_ceiling import check_ceiling
from slipway._model.session import DEFAULT_IDLE_SECONDS
from slipway._server.http import response_models as documents
from slipway._server.http import run_request_parsing
from slipway._server.http.disconnect import run_while_connected
from slipway._server.http.openapi import (
    describe_headers,
    describe_json_body,
    describe_problems,
    describe_run_request,
)
from slipway._server.http.request_bodies import ClientGone
from slipway._server.http.request_context import (
    KEY_FIELD,
    SESSION_FIELD,
    build_json_response,
    get_peer,
    get_service,
    read_json,
    read_query,
    read_share,
)
from slipway._server.http.routing import create_router
from slipway._server.http.start_routes import RunForms, StartForms, answer_run, answer_start
from slipway._server.kept.kept_sessions import SessionPolicy
from slipway._server.problems import InvalidRequest, NotFound
from slipway._util.errors import SlipwayError
from slipway._util.identifiers import IDENTIFIER_LENGTH, create_identifier, is_identifier
from slipway._wire.option_models import read_options
from slipway._wire.request_models import (
    NoQuery,
    SessionBody,
    SessionRunBody,
    SessionRunQuery,
    SessionStartBody,
    SessionStartQuery,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._local.session import LocalSession
    from slipway._server.kept.kept_sessions import KeptSession

router = create_router("sessions")


@router.post(
    "/v1/sessions",
    summary="Open a session: a machine for several runs",
    status_code=201,
    response_model=documents.SessionDocument,
    responses=describe_problems(403, 408, 409, 413, 415, 422, 429),
    openapi_extra={
        **describe_headers(KEY_FIELD, SESSION_FIELD),
        **describe_json_body(SessionBody),
    },
)
async def open_session(request: Request) -> Response:
    """Open a session, and answer when it is open. If the client leaves before, it is closed."""
    service = get_service(request)
    service.check_open()
    read_query(request, NoQuery)
    share = read_share(request)
    form = await read_json(request, SessionBody)
    language = run_request_parsing.join_language(form.language, form.version)
    idle = DEFAULT_IDLE_SECONDS if form.idle is None else form.idle
    options = read_options(form)
    check_ceiling(options.get("network"), service.ceiling, "slipway serve")

    async def open_new() -> LocalSession:
        session = service.runtime.create_session(language, share, idle, options)
        await session.open()
        return session

    return await _answer_kept(request, idle, open_new)


@router.get(
    "/v1/sessions",
    summary="List the sessions that the client may see",
    response_model=documents.SessionsDocument,
    responses=describe_problems(),
)
async def list_sessions(request: Request) -> Response:
    """List own sessions, the oldest first; root and the server's user see all."""
    sessions = get_service(request).sessions.list_visible(get_peer(request))
    return build_json_response({"sessions": [kept.build_record() for kept in sessions]})


@router.get(
    "/v1/sessions/{id}",
    summary="Get one session",
    response_model=documents.SessionDocument,
    responses=describe_problems(404, 422),
)
async def get_session(request: Request, id: str) -> Response:
    """Return the session's state and number of runs."""
    return build_json_response(_find_session(request, id).build_record())


@router.delete(
    "/v1/sessions/{id}",
    summary="End a session and its runs",
    status_code=204,
    response_class=Response,
    responses=describe_problems(404, 422),
)
async def close_session(request: Request, id: str) -> Response:
    """Cancel the session's runs and end its machine. Output of the runs can still be read."""
    await get_service(request).sessions.remove(_find_session(request, id))
    return Response(status_code=204)


@router.post(
    "/v1/sessions/{id}/fork",
    summary="Open another session with the files of this session",
    status_code=201,
    response_model=documents.SessionDocument,
    responses=describe_problems(404, 409, 410, 422, 429),
    openapi_extra=describe_headers(SESSION_FIELD),
)
async def fork_session(request: Request, id: str) -> Response:
    """Fork a session after its earlier runs, and answer when the new session is open."""
    get_service(request).check_open()
    kept = _find_session(request, id)
    return await _answer_kept(request, kept.idle, kept.fork)


@router.post(
    "/v1/sessions/{id}/start",
    summary="Start a run in a session, with its own output socket",
    status_code=201,
    response_model=documents.StartedDocument,
    responses=describe_problems(404, 408, 410, 413, 415, 422, 429),
    openapi_extra=describe_run_request(SessionStartBody, SessionStartQuery),
)
async def start_in_session(request: Request, id: str) -> Response:
    """Start a run as ``POST /v1/start`` does, after the earlier runs of the session."""
    kept = _find_session(request, id)
    forms = StartForms(SessionStartQuery, SessionStartBody)
    return await answer_start(request, forms, kept.start, kept.id)


@router.post(
    "/v1/sessions/{id}/run",
    summary="Run in a session, and answer with the result or a stream of events",
    response_model=documents.ResultDocument,
    responses=describe_problems(404, 408, 410, 413, 415, 422, 429, 502),
    openapi_extra=describe_run_request(SessionRunBody, SessionRunQuery),
)
async def run_in_session(request: Request, id: str) -> Response:
    """Run as ``POST /v1/run`` does, after the earlier runs of the session."""
    kept = _find_session(request, id)
    return await answer_run(request, RunForms(SessionRunQuery, SessionRunBody), kept.start)


async def _answer_kept(
    request: Request, idle: float, opener: Callable[[], Awaitable[LocalSession]]
) -> Response:
    """Keep the session that ``opener`` opens, and answer with its record."""
    service = get_service(request)
    sessions = service.sessions
    policy = SessionPolicy(_choose_id(request), get_peer(request), idle, read_share(request))
    try:
        kept = await run_while_connected(request.receive, sessions.keep(policy, opener))
    except SlipwayError:
        service.check_open()  # a server that drains closes sessions that are being opened
        raise
    if await request.is_disconnected():  # no client knows the id
        await sessions.remove(kept)
        raise ClientGone
    return build_json_response(kept.build_record(), 201, {"location": f"/v1/sessions/{kept.id}"})


def _choose_id(request: Request) -> str:
    """Return the id that the client has chosen for the new session, or a random id.

    Raises:
        Refusal: the client's id has another form.
    """
    chosen = request.headers.get(SESSION_FIELD)
    if chosen is None:
        return create_identifier()
    if not is_identifier(chosen):
        raise InvalidRequest(
            f"invalid {SESSION_FIELD} {chosen!r:.80}",
            f"Use {IDENTIFIER_LENGTH} random hexadecimal digits, 0-9 and a-f.",
        )
    return chosen


def _find_session(request: Request, identifier: str) -> KeptSession:
    """Return the session.

    Raises:
        Refusal: the id is unknown, or the session of another user.
    """
    kept = get_service(request).sessions.find(identifier, get_peer(request))
    if kept is None:
        raise NotFound(
            f"session {identifier!r:.80} not found",
            "It may have ended long ago. See: GET /v1/sessions",
        )
    return kept
