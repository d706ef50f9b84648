"""The HTTP application: its routes, and the problems that it answers with."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from slipway._model.errors import Busy, SlipwayError
from slipway._server import problems
from slipway._server.http import metrics, openapi, run_routes, start_routes
from slipway._server.http import response_models as documents
from slipway._server.http.middleware import Envelope
from slipway._server.http.request_context import JSON, json_response, service_of
from slipway._server.http.session_route_table import add_session_routes
from slipway._server.problems import Problem, Refusal
from slipway._wire import request_models as models
from slipway._wire.request_models import (
    ResumeQuery,
    RunBody,
    RunQuery,
    StartBody,
    StartQuery,
)
from slipway_protocol import __version__

if TYPE_CHECKING:
    from slipway._server.http.request_context import Service


def create_app(service: Service) -> Envelope:
    """The ASGI application that serves ``service``."""
    app = _application()
    app.state.service = service
    return Envelope(app, service.metrics)


@cache
def document() -> bytes:
    """The OpenAPI document, which is ``docs/openapi.json`` as well."""
    return json.dumps(openapi.document(_application()), indent=1).encode() + b"\n"


def _application() -> FastAPI:
    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name.strip("_"),
    )
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(SlipwayError, _on_failure)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)
    _add_routes(app)
    return app


def _add_routes(app: FastAPI) -> None:
    add = app.add_api_route
    problem = openapi.problems
    add(
        "/v1/start",
        start_routes.start_run,
        tags=["runs"],
        methods=["POST"],
        summary="Start a run, whose output comes from a socket of its own",
        status_code=201,
        response_model=documents.StartedDocument,
        responses=problem(408, 413, 415, 422, 429),
        openapi_extra=openapi.source_or(StartBody, StartQuery),
    )
    add(
        "/v1/run",
        start_routes.run_program,
        tags=["runs"],
        methods=["POST"],
        summary="Run to the end, and answer with the result or a stream of events",
        response_model=documents.ResultDocument,
        responses=problem(408, 413, 415, 422, 429, 502),
        openapi_extra=openapi.source_or(RunBody, RunQuery),
    )
    add(
        "/v1/runs",
        run_routes.list_runs,
        tags=["runs"],
        methods=["GET"],
        summary="The runs that the client may see",
        response_model=documents.RunsDocument,
        responses=problem(),
    )
    add(
        "/v1/runs/{id}",
        run_routes.get_run,
        tags=["runs"],
        methods=["GET"],
        summary="One run",
        response_model=documents.RunDocument,
        responses=problem(404, 422),
    )
    add(
        "/v1/runs/{id}",
        run_routes.end_run,
        tags=["runs"],
        methods=["DELETE"],
        summary="End a run; its output can still be read",
        status_code=204,
        response_class=Response,
        responses=problem(404, 422),
    )
    add(
        "/v1/runs/{id}/files/{path:path}",
        run_routes.get_file,
        tags=["runs"],
        methods=["GET"],
        summary="A file that was fetched, once the run has ended",
        response_class=run_routes.Octets,
        responses=problem(404, 422),
    )
    add(
        "/v1/runs/{id}/signal",
        run_routes.send_signal,
        tags=["runs"],
        methods=["POST"],
        summary="Send a signal to the program of the phase that runs",
        status_code=204,
        response_class=Response,
        responses=problem(404, 408, 409, 413, 415, 422, 429, 502),
        openapi_extra=openapi.json_body(models.SignalBody),
    )
    add(
        "/v1/runs/{id}/resize",
        run_routes.resize_terminal,
        tags=["runs"],
        methods=["POST"],
        summary="Give the program's terminal another size",
        status_code=204,
        response_class=Response,
        responses=problem(404, 408, 409, 413, 415, 422, 429, 502),
        openapi_extra=openapi.json_body(models.TerminalSize),
    )
    add(
        "/v1/runs/{id}/resume",
        run_routes.resume_output,
        tags=["runs"],
        methods=["POST"],
        summary="Choose where in the stream the next connection to the output socket begins",
        response_model=documents.ResumedDocument,
        responses=problem(404, 410, 422),
        openapi_extra={"parameters": openapi.parameters(ResumeQuery)},
    )
    add_session_routes(add)
    add(
        "/v1/languages",
        _list_languages,
        tags=["server"],
        methods=["GET"],
        summary="What can be run",
        response_model=documents.LanguagesDocument,
        responses=problem(),
    )
    add(
        "/v1/health",
        _get_health,
        tags=["server"],
        methods=["GET"],
        summary="Whether the server takes runs; 503 while it drains",
        response_model=documents.HealthDocument,
        responses=problem(),
    )
    add(
        "/metrics",
        _get_metrics,
        tags=["server"],
        methods=["GET"],
        summary="Counts and times, for Prometheus",
        response_class=_MetricsText,
        responses=problem(),
    )
    add("/openapi.json", _get_document, methods=["GET"], include_in_schema=False)


class _MetricsText(Response):
    media_type = metrics.MEDIA_TYPE
    charset = ""


async def _list_languages(request: Request) -> Response:
    languages = await service_of(request).runtime.languages()
    return json_response({"languages": [asdict(language) for language in languages]})


async def _get_health(request: Request) -> Response:
    service = service_of(request)
    service.check_taking()
    load = service.runtime.load
    return json_response(
        {"status": "ok", "version": __version__, "vms": load.vms, "waiting": load.waiting}
    )


async def _get_metrics(request: Request) -> Response:
    return _MetricsText(service_of(request).metrics.text())


async def _get_document() -> Response:
    return Response(document(), media_type=JSON)


def _answer(request: Request, problem: Problem) -> Response:
    if problem.status >= 400:
        service_of(request).metrics.refused(problem.kind)
    response = Response(problem.body(), problem.status)
    response.raw_headers.extend(problem.header_items())
    return response


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _answer(request, error.problem)


async def _on_failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, SlipwayError)
    if isinstance(error, Busy) and service_of(request).draining:
        return _answer(request, problems.draining())
    return _answer(request, problems.problem_of(error))


async def _on_bug(request: Request, _error: Exception) -> Response:
    return _answer(request, problems.bug())


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # Starlette names those of the first route with that path only; RFC 9110 15.5.6 wants all.
        headers["Allow"] = ", ".join(sorted(_find_methods(request)))
    return _answer(request, problems.of_status(error.status_code, str(error.detail), headers))


def _find_methods(request: Request) -> set[str]:
    """The methods that there are for the path of ``request``."""
    routes = [route for route in request.app.routes if isinstance(route, APIRoute)]
    matching = [route for route in routes if route.path_regex.match(request.url.path)]
    return {method for route in matching for method in route.methods or ()}


if __name__ == "__main__":
    sys.stdout.buffer.write(document())
