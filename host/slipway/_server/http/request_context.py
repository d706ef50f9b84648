"""Service and peer of a request, and readers of its query, header fields and short JSON body."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from slipway._model.key import check_key
from slipway._server.http import request_parsing
from slipway._server.problems import DRAINING, Problem, Refusal
from slipway._util.shares import Share
from slipway._util.units import MIB

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.requests import Request

    from slipway._local.runtime import AsyncRuntime
    from slipway._model.network import Network
    from slipway._server.http.metrics import Metrics
    from slipway._server.http.request_bodies import BodyReader
    from slipway._server.kept.kept_runs import KeptRuns
    from slipway._server.kept.kept_sessions import KeptSessions
    from slipway._server.peers import Peer

JSON = "application/json"
KEY_FIELD = "Slipway-Key"
# The id that the client chooses for a new session, so that it can delete the session before the
# response has come.
SESSION_FIELD = "Slipway-Session"
# Of a JSON body that is not a run request, in bytes: the longest has the rules of a network.
_MAX_BODY = 64 * 1024

_Model = TypeVar("_Model", bound="BaseModel")


@dataclass(slots=True)
class Service:
    """Objects that all routes use.

    ``body_limit`` bounds JSON run requests, in bytes, and ``ceiling`` the networks that clients may
    request; None allows none.
    """

    runtime: AsyncRuntime
    runs: KeptRuns
    sessions: KeptSessions
    metrics: Metrics
    bodies: BodyReader
    body_limit: int = 64 * MIB
    draining: bool = False
    ceiling: Network | None = None

    def check_open(self) -> None:
        """Check that the server accepts new runs and sessions.

        Raises:
            Refusal: the server is draining.
        """
        if self.draining:
            raise Refusal(DRAINING)


def get_service(request: Request) -> Service:
    """Return the service of the application that handles ``request``."""
    service: Service = request.app.state.service
    return service


def get_peer(request: Request) -> Peer:
    """Return the client, as its connection has recorded it."""
    peer: Peer = request.state.peer
    return peer


def read_query(request: Request, kind: type[_Model]) -> _Model:
    """Return the query. FastAPI could parse it too, in several times the time.

    Raises:
        Refusal: the query is not of this ``kind``, or has a parameter twice.
    """
    return request_parsing.parse_query(request.query_params.multi_items(), kind)


def read_share(request: Request) -> Share:
    """Return the client's user and key.

    Raises:
        InputError: the key is too long, or has characters other than printable ASCII.
    """
    key = check_key(request.headers.get(KEY_FIELD, ""), KEY_FIELD)
    return Share(str(get_peer(request).uid), key)


def read_media_type(request: Request) -> str:
    """Return the type of the body; without Content-Type, octets (RFC 9110 8.3).

    Raises:
        Refusal: JSON in an encoding other than UTF-8. Source code may have any encoding.
    """
    field = request.headers.get("content-type", "application/octet-stream")
    kind, *parameters = (part.strip().lower() for part in field.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        encoded = name == "charset" and value.strip('"') not in {"utf-8", "utf8", "us-ascii"}
        if encoded and is_json(kind):
            raise Refusal(
                Problem(
                    415, "unsupported-media-type", f"the body is in {value!r:.80}", "Send UTF-8."
                )
            )
    return kind


def is_json(media_type: str) -> bool:
    """Tell if bodies of this type are JSON (RFC 6839 3.1)."""
    return media_type in {JSON, "text/json"} or media_type.endswith("+json")


async def read_json(request: Request, kind: type[_Model]) -> _Model:
    """Return the object in the short JSON body of a request.

    Raises:
        ClientGone: the connection was closed before the end of the body.
        Refusal: the body is not of this ``kind``.
    """
    if not is_json(media_type := read_media_type(request)):
        raise Refusal(
            Problem(
                415, "unsupported-media-type", f"the body is {media_type!r:.80}", f"Send {JSON}."
            )
        )
    length = request.headers.get("content-length")
    share = read_share(request)
    body = await get_service(request).bodies.read(request.receive, length, _MAX_BODY, share)
    try:
        return request_parsing.parse_body(body.take(), kind)
    finally:
        body.release()


def build_json_response(
    record: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a response with ``record`` as compact JSON."""
    data = json.dumps(record, separators=(",", ":")).encode("ascii")
    return Response(data, status, headers, JSON)
