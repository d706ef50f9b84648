"""Routes about sessions: machines that are kept for several runs."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002  # FastAPI looks it up
from starlette.responses import Response

from slipway._model.errors import SlipwayError
from slipway._model.options import MACHINE_OPTIONS
from slipway._model.session import DEFAULT_IDLE_SECONDS
from slipway._server import problems
from slipway._server.http import job_request as jobs
from slipway._server.http import start_routes
from slipway._server.http.disconnect import attended
from slipway._server.http.request_bodies import ClientGone
from slipway._server.http.request_context import (
    json_of,
    json_response,
    peer_of,
    query_of,
    service_of,
)
from slipway._server.http.request_parsing import unfit
from slipway._server.kept.kept_sessions import SessionTerms
from slipway._server.problems import Refusal
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

ID_FIELD = "Slipway-Session"
"""With the id that a new session is to have: who gives up waiting for it can delete it by that."""
_ID = re.compile("[0-9a-f]{32}")


async def open_session(request: Request) -> Response:
    """It answers when the session is open. A client that goes away before leaves nothing."""
    service = service_of(request)
    service.check_taking()
    query_of(request, NoQuery)
    key = start_routes.read_key(request)
    told = await json_of(request, SessionBody)
    language = jobs.language_of(told.language, told.version)
    idle = DEFAULT_IDLE_SECONDS if told.idle is None else told.idle
    options = told.model_dump(exclude_unset=True, include=set(MACHINE_OPTIONS))

    async def opened() -> LocalSession:
        session = service.runtime.session(language, key=key, idle_seconds=idle, **options)
        await session.open()
        return session

    return await _answer_kept(request, idle, opened)


async def fork_session(request: Request, id: str) -> Response:
    """It answers when the new session is open, which the runs before it may delay."""
    service_of(request).check_taking()
    kept = _find(request, id)
    return await _answer_kept(request, kept.idle, kept.fork)


async def list_sessions(request: Request) -> Response:
    """GET /v1/sessions."""
    sessions = service_of(request).sessions.listing(peer_of(request))
    return json_response({"sessions": [kept.record() for kept in sessions]})


async def get_session(request: Request, id: str) -> Response:
    """GET /v1/sessions/{id}."""
    return json_response(_find(request, id).record())


async def close_session(request: Request, id: str) -> Response:
    """What runs in it is cancelled; its output can still be read."""
    await service_of(request).sessions.remove(_find(request, id))
    return Response(status_code=204)


async def start_in_session(request: Request, id: str) -> Response:
    """As ``POST /v1/start``, behind the runs of the session that came before."""
    kept = _find(request, id)
    return await start_routes.answer_start(
        request, SessionStartQuery, SessionStartBody, kept.start, kept.id
    )


async def run_in_session(request: Request, id: str) -> Response:
    """As ``POST /v1/run``, behind the runs of the session that came before."""
    kept = _find(request, id)
    return await start_routes.answer_run(request, SessionRunQuery, SessionRunBody, kept.start)


async def _answer_kept(
    request: Request, idle: float, opened: Callable[[], Awaitable[LocalSession]]
) -> Response:
    service = service_of(request)
    sessions = service.sessions
    terms = SessionTerms(_id(request), peer_of(request), idle)
    try:
        kept = await attended(request.receive, sessions.keep(terms, opened))
    except SlipwayError:
        service.check_taking()  # it was closed before it was open
        raise
    if await request.is_disconnected():  # nobody will ever hear of its name
        await sessions.remove(kept)
        raise ClientGone
    return json_response(kept.record(), 201, {"location": f"/v1/sessions/{kept.id}"})


def _id(request: Request) -> str:
    """The id that the new session is to have. Raises Refusal."""
    told = request.headers.get(ID_FIELD)
    if told is None:
        return secrets.token_hex(16)
    if not _ID.fullmatch(told):
        raise Refusal(unfit(f"{ID_FIELD} is {told!r:.80}", "Use 32 random hexadecimal digits."))
    return told


def _find(request: Request, identifier: str) -> KeptSession:
    """The session, if the client may know of it. Raises Refusal."""
    kept = service_of(request).sessions.get(identifier, peer_of(request))
    if kept is None:
        raise Refusal(problems.unknown_session(identifier))
    return kept
