"""The OpenAPI document: what FastAPI knows of the routes, and what it does not know of bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from slipway._model.bounds import MAX_KEY
from slipway._server.http.response_models import ProblemDocument
from slipway._server.http.session_routes import ID_FIELD
from slipway._server.http.start_routes import KEY_FIELD
from slipway._server.problems import MEDIA_TYPE
from slipway._wire.request_models import (
    RunBody,
    SessionBody,
    SessionRunBody,
    SessionStartBody,
    Setting,
    SignalBody,
    StartBody,
    describe_default,
)
from slipway_protocol import __version__

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import BaseModel

_SCHEMAS = "#/components/schemas/"
_BODIES = (RunBody, StartBody, SessionBody, SessionRunBody, SessionStartBody, SignalBody)
_DESCRIPTION = """\
Runs untrusted code in microVMs. HTTP/1.1 over a Unix socket. Sizes are in bytes, times in seconds;
every error is application/problem+json with a hint.
"""
_SERVERS: list[dict[str, Any]] = [
    {
        "url": "http://localhost",
        "description": "Whatever listens on the Unix socket; the host's name says nothing.",
    }
]
TAGS = {
    "runs": "Start runs; list, signal, resume and end them; fetch their files.",
    "sessions": "Machines that are kept for several runs.",
    "server": "The server itself.",
}
_FIELDS: dict[str, dict[str, Any]] = {
    KEY_FIELD: {
        "name": KEY_FIELD,
        "in": "header",
        "required": False,
        "description": "Whose run it is, for fairness among those behind one client.",
        "schema": {"type": "string", "maxLength": MAX_KEY},
    },
    ID_FIELD: {
        "name": ID_FIELD,
        "in": "header",
        "required": False,
        "description": "The id that the session is to have; a random one where it is left out.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    },
}
_MEANINGS = {
    400: "No HTTP, or no JSON.",
    403: "The client's user may not use this server.",
    404: "There is no such run or session, or it is none of the client's.",
    408: "The request came too slowly.",
    409: "Nothing runs that could take it, or without a terminal; or the session's id is taken.",
    410: "This part of the stream is no longer kept; or the session has ended.",
    413: "The body is too large.",
    415: "The body is of a type that is not taken.",
    422: "Something in the request cannot be; the detail names it.",
    429: "There is no room; Retry-After says when there may be.",
    500: "A bug of the server's.",
    502: "The machine was lost under the program.",
    503: "The server is about to end, or its host lacks something.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that are problems; any route may give 400, 500 and 503."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}{ProblemDocument.__name__}"}}}
    return {
        status: {"description": _MEANINGS[status], "content": content}
        for status in sorted({400, 500, 503, *statuses})
    }


def parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    """The parameters of a route with this query."""
    schema = query.model_json_schema()
    for told in schema["properties"].values():
        describe_default(told)
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": told.pop("description"),
            "schema": told,
        }
        for name, told in schema["properties"].items()
    ]


def source_or(kind: type[BaseModel], query: type[BaseModel]) -> dict[str, Any]:
    """What a route takes that takes a source, or a whole job of ``kind``."""
    octets = {"schema": {"type": "string", "format": "binary"}}
    # A session was opened for somebody, and its runs are his.
    keys = [_FIELDS[KEY_FIELD]] if issubclass(query, Setting) else []
    return {
        "parameters": [*parameters(query), *keys],
        "requestBody": {
            "required": True,
            "description": "The source, of any type that is not JSON; or as JSON the whole job.",
            "content": {
                "application/octet-stream": octets,
                **_json(kind),
            },
        },
    }


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """The request body of a route that takes JSON of ``kind``."""
    return {"requestBody": {"required": True, "content": _json(kind)}}


def headers(*names: str) -> dict[str, Any]:
    """The header parameters of a route that takes those fields, of which it needs none."""
    return {"parameters": [_FIELDS[name] for name in names]}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of ``app``."""
    made = get_openapi(
        title="Slipway",
        version=__version__,
        description=_DESCRIPTION,
        routes=app.routes,
        servers=_SERVERS,
        tags=[{"name": name, "description": told} for name, told in TAGS.items()],
    )
    _, ours = models_json_schema(
        [(kind, "validation") for kind in (ProblemDocument, *_BODIES)],
        ref_template=_SCHEMAS + "{model}",
    )
    schemas = made["components"]["schemas"]
    schemas.update(ours["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    made["components"]["schemas"] = dict(sorted(schemas.items()))
    # Here a default of null says that a field may be left out, which "required" says already.
    _strip_null_defaults(made)
    return made


def _json(kind: type[BaseModel]) -> dict[str, Any]:
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
