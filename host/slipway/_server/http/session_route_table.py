"""The routes about sessions, as the application and its document have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from slipway._server.http import openapi, session_routes
from slipway._server.http import response_models as documents
from slipway._server.http.session_routes import ID_FIELD
from slipway._server.http.start_routes import KEY_FIELD
from slipway._wire import request_models as models

if TYPE_CHECKING:
    from collections.abc import Callable


def add_session_routes(add: Callable[..., None]) -> None:
    """Have ``add``, of a FastAPI application, add each."""
    problem = openapi.problems
    add(
        "/v1/sessions",
        session_routes.open_session,
        tags=["sessions"],
        methods=["POST"],
        summary="Open a session: a machine for several runs",
        status_code=201,
        response_model=documents.SessionDocument,
        responses=problem(408, 409, 413, 415, 422, 429),
        openapi_extra={
            **openapi.headers(KEY_FIELD, ID_FIELD),
            **openapi.json_body(models.SessionBody),
        },
    )
    add(
        "/v1/sessions",
        session_routes.list_sessions,
        tags=["sessions"],
        methods=["GET"],
        summary="The sessions that the client may see",
        response_model=documents.SessionsDocument,
        responses=problem(),
    )
    add(
        "/v1/sessions/{id}",
        session_routes.get_session,
        tags=["sessions"],
        methods=["GET"],
        summary="One session",
        response_model=documents.SessionDocument,
        responses=problem(404, 422),
    )
    add(
        "/v1/sessions/{id}",
        session_routes.close_session,
        tags=["sessions"],
        methods=["DELETE"],
        summary="End a session and what runs in it",
        status_code=204,
        response_class=Response,
        responses=problem(404, 422),
    )
    add(
        "/v1/sessions/{id}/fork",
        session_routes.fork_session,
        tags=["sessions"],
        methods=["POST"],
        summary="Open another session that begins as this one is now",
        status_code=201,
        response_model=documents.SessionDocument,
        responses=problem(404, 409, 410, 422, 429),
        openapi_extra=openapi.headers(ID_FIELD),
    )
    add(
        "/v1/sessions/{id}/start",
        session_routes.start_in_session,
        tags=["sessions"],
        methods=["POST"],
        summary="Start a run in a session, whose output comes from a socket of its own",
        status_code=201,
        response_model=documents.StartedDocument,
        responses=problem(404, 408, 410, 413, 415, 422, 429),
        openapi_extra=openapi.source_or(models.SessionStartBody, models.SessionStartQuery),
    )
    add(
        "/v1/sessions/{id}/run",
        session_routes.run_in_session,
        tags=["sessions"],
        methods=["POST"],
        summary="Run in a session, and answer with the result or a stream of events",
        response_model=documents.ResultDocument,
        responses=problem(404, 408, 410, 413, 415, 422, 429, 502),
        openapi_extra=openapi.source_or(models.SessionRunBody, models.SessionRunQuery),
    )
