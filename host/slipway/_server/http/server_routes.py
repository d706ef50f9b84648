"""Routes about the server itself."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import Request  # noqa: TC002  # FastAPI looks it up
from starlette.responses import Response

from slipway._server.http import metrics
from slipway._server.http import response_models as documents
from slipway._server.http.openapi import describe_problems
from slipway._server.http.request_context import build_json_response, get_service
from slipway._server.http.routing import create_router
from slipway_protocol import __version__

router = create_router("server")


class MetricsText(Response):
    """Response in Prometheus's text format."""

    media_type = metrics.MEDIA_TYPE
    charset = ""


@router.get(
    "/v1/languages",
    summary="List the languages that can be run",
    response_model=documents.LanguagesDocument,
    responses=describe_problems(),
)
async def list_languages(request: Request) -> Response:
    """List all languages, with their versions and toolchains."""
    languages = await get_service(request).runtime.languages()
    return build_json_response({"languages": [asdict(language) for language in languages]})


@router.get(
    "/v1/health",
    summary="Check that the server accepts runs",
    response_model=documents.HealthDocument,
    responses=describe_problems(),
)
async def get_health(request: Request) -> Response:
    """Return the number of machines and of waiting runs; 503 if the server is draining."""
    service = get_service(request)
    service.check_open()
    load = service.runtime.load
    return build_json_response(
        {
            "status": "ok",
            "version": __version__,
            "machines": load.machines,
            "waiting": load.waiting,
            "store": str(service.runtime.store),
        }
    )


@router.get(
    "/metrics",
    summary="Get counts and times, for Prometheus",
    response_class=MetricsText,
    responses=describe_problems(),
)
async def get_metrics(request: Request) -> Response:
    """Return the metrics in Prometheus's text format."""
    return MetricsText(get_service(request).metrics.render())
