"""HTTP application: all routes, and the problems that errors become."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from slipway._server import problems
from slipway._server.http import openapi, run_routes, server_routes, session_routes, start_routes
from slipway._server.http.middleware import CLIENT_CLOSED, Envelope
from slipway._server.http.request_bodies import ClientGone
from slipway._server.http.request_context import JSON, get_service
from slipway._server.problems import Problem, Refusal
from slipway._util.errors import Busy, SlipwayError

if TYPE_CHECKING:
    from slipway._server.http.request_context import Service

_ROUTERS = (
    start_routes.router,
    run_routes.router,
    session_routes.router,
    server_routes.router,
)


def create_app(service: Service) -> Envelope:
    """Return the ASGI application that serves ``service``."""
    app = _create_app()
    app.state.service = service
    return Envelope(app, service.metrics)


@cache
def encode_document() -> bytes:
    """Return the OpenAPI document, which is also ``docs/openapi.json``."""
    routes = [route for router in _ROUTERS for route in router.routes]
    return json.dumps(openapi.build_document(routes), indent=1).encode() + b"\n"


def _create_app() -> FastAPI:
    app = FastAPI(
        # Not include_router(): it would build each route a second time.
        routes=[route for router in _ROUTERS for route in router.routes],
        # FastAPI's own documentation pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(SlipwayError, _on_failure)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)
    app.add_api_route("/openapi.json", _get_document, include_in_schema=False)
    return app


async def _get_document() -> Response:
    return Response(encode_document(), media_type=JSON)


def _answer(request: Request, problem: Problem) -> Response:
    """Return the response with ``problem``, and count it."""
    if problem.status >= 400:
        get_service(request).metrics.count_refusal(problem.kind)
    response = Response(problem.encode_body(), problem.status)
    response.raw_headers.extend(problem.encode_headers())
    return response


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _answer(request, error.problem)


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    """Return a response that nobody receives, for its status in the metrics."""
    return Response(status_code=CLIENT_CLOSED)


async def _on_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, SlipwayError)
    if isinstance(error, Busy) and get_service(request).draining:
        return _answer(request, problems.DRAINING)
    return _answer(request, problems.describe_error(error))


async def _on_bug(request: Request, _error: Exception) -> Response:
    return _answer(request, problems.BUG)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # Starlette lists the methods of the first route with this path; RFC 9110 15.5.6 wants all.
        headers["Allow"] = ", ".join(sorted(_find_methods(request)))
    return _answer(request, problems.describe_status(error.status_code, str(error.detail), headers))


def _find_methods(request: Request) -> set[str]:
    """Return the methods of all routes that match the path of ``request``."""
    routes = [route for route in request.app.routes if isinstance(route, APIRoute)]
    matching = [route for route in routes if route.path_regex.match(request.url.path)]
    return {method for route in matching for method in route.methods or ()}


if __name__ == "__main__":
    sys.stdout.buffer.write(encode_document())
