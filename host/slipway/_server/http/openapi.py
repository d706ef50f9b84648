"""OpenAPI document: FastAPI's knowledge of the routes, with the request bodies that it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from slipway._model.bounds import MAX_KEY
from slipway._server.http.request_context import KEY_FIELD, SESSION_FIELD
from slipway._server.http.response_models import ProblemDocument
from slipway._server.problems import MEDIA_TYPE
from slipway._util.identifiers import IDENTIFIER_PATTERN
from slipway._wire.option_models import describe_default
from slipway._wire.request_models import (
    RunBody,
    SessionBody,
    SessionRunBody,
    SessionStartBody,
    Setting,
    SignalBody,
    StartBody,
)
from slipway_protocol import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel
    from starlette.routing import BaseRoute

_SCHEMAS = "#/components/schemas/"
_BODIES = (RunBody, StartBody, SessionBody, SessionRunBody, SessionStartBody, SignalBody)
_DESCRIPTION = """\
Runs untrusted code in microVMs. HTTP/1.1 over a Unix socket. Sizes are in bytes, times in seconds;
every error is application/problem+json with a hint.
"""
_SERVERS: list[dict[str, Any]] = [
    {
        "url": "http://localhost",
        "description": "The server on the Unix socket; the host in the URL is ignored.",
    }
]
_TAGS = {
    "runs": "Start runs; list, signal, resume and end them; fetch their files.",
    "sessions": "Machines that are kept for several runs.",
    "server": "The server itself.",
}
_FIELDS: dict[str, dict[str, Any]] = {
    KEY_FIELD: {
        "name": KEY_FIELD,
        "in": "header",
        "required": False,
        "description": "Name of a share of the queue, for fairness among the users of one client.",
        "schema": {"type": "string", "maxLength": MAX_KEY},
    },
    SESSION_FIELD: {
        "name": SESSION_FIELD,
        "in": "header",
        "required": False,
        "description": "The id for the new session. Default: a random id.",
        "schema": {"type": "string", "pattern": f"^{IDENTIFIER_PATTERN}$"},
    },
}
_MEANINGS = {
    400: "Invalid HTTP or JSON.",
    403: "The client's user may not use this server, or not this network.",
    404: "The run, session or file is unknown, or belongs to another user.",
    408: "The request came too slowly.",
    409: "No program is running, or it has no terminal; or the session's id is in use.",
    410: "This part of the stream is no longer kept; or the session has ended.",
    413: "The body is too large.",
    415: "The type of the body is not supported.",
    422: "A value of the request is invalid; the detail names it.",
    429: "No room now; Retry-After says when to try again.",
    500: "A bug in the server.",
    502: "The machine was lost during the run.",
    503: "The server is shutting down, or its host lacks something.",
}


def describe_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route; every route has 400, 500 and 503."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}{ProblemDocument.__name__}"}}}
    return {
        status: {"description": _MEANINGS[status], "content": content}
        for status in sorted({400, 500, 503, *statuses})
    }


def describe_query(query: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the parameters of a route with this query."""
    schema = query.model_json_schema()
    for field in schema["properties"].values():
        describe_default(field)
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": field.pop("description"),
            "schema": field,
        }
        for name, field in schema["properties"].items()
    ]


def describe_run_request(kind: type[BaseModel], query: type[BaseModel]) -> dict[str, Any]:
    """Return parameters and body of a route that takes a source, or a whole job of ``kind``."""
    octets = {"schema": {"type": "string", "format": "binary"}}
    # A run in a session has the key of the session.
    keys = [_FIELDS[KEY_FIELD]] if issubclass(query, Setting) else []
    return {
        "parameters": [*describe_query(query), *keys],
        "requestBody": {
            "required": True,
            "description": "The source, as any type except JSON; or the whole job as JSON.",
            "content": {
                "application/octet-stream": octets,
                **_describe_json(kind),
            },
        },
    }


def describe_json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the request body of a route that takes JSON of ``kind``."""
    return {"requestBody": {"required": True, "content": _describe_json(kind)}}


def describe_headers(*names: str) -> dict[str, Any]:
    """Return the parameters of a route with these optional header fields."""
    return {"parameters": [_FIELDS[name] for name in names]}


def build_document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """Return the document about ``routes``."""
    document = get_openapi(
        title="Slipway",
        version=__version__,
        description=_DESCRIPTION,
        routes=routes,
        servers=_SERVERS,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
    )
    _, ours = models_json_schema(
        [(kind, "validation") for kind in (ProblemDocument, *_BODIES)],
        ref_template=_SCHEMAS + "{model}",
    )
    schemas = document["components"]["schemas"]
    schemas.update(ours["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    # A default of null only means that a field is optional, which "required" says already.
    _strip_null_defaults(document)
    return document


def _describe_json(kind: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"{_SCHEMAS}{kind.__name__}"}}}


def _strip_null_defaults(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("default", "") is None:
            del node["default"]
        for value in node.values():
            _strip_null_defaults(value)
    elif isinstance(node, list):
        for value in node:
            _strip_null_defaults(value)
