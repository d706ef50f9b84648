"""What the routes work on, and how they find it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from slipway._model.options import MIB
from slipway._server import problems
from slipway._server.http import request_parsing as parsing
from slipway._server.problems import Problem, Refusal

if TYPE_CHECKING:
    from pydantic import BaseModel
    from starlette.requests import Request

    from slipway._local.runtime import AsyncRuntime
    from slipway._server.http.metrics import Metrics
    from slipway._server.http.request_bodies import Bodies
    from slipway._server.kept.kept_runs import KeptRuns
    from slipway._server.kept.kept_sessions import Sessions
    from slipway._server.peers import Peer

JSON = "application/json"
# Of a JSON body that is no job, in bytes.
_MAX_BODY = 4096

_Model = TypeVar("_Model", bound="BaseModel")


@dataclass(slots=True)
class Service:
    """What the routes work on. ``body_limit`` is that of JSON bodies, in bytes."""

    runtime: AsyncRuntime
    runs: KeptRuns
    sessions: Sessions
    metrics: Metrics
    bodies: Bodies
    body_limit: int = 64 * MIB
    draining: bool = False

    def check_taking(self) -> None:
        """Check that new runs are taken; raises Refusal."""
        if self.draining:
            raise Refusal(problems.draining())


def service_of(request: Request) -> Service:
    """What the request's application serves."""
    service: Service = request.app.state.service
    return service


def peer_of(request: Request) -> Peer:
    """Who asks; its connection has put it there."""
    peer: Peer = request.state.peer
    return peer


def query_of(request: Request, kind: type[_Model]) -> _Model:
    """The request's query. FastAPI could read it as well, in several times the time.

    Raises:
        Refusal: it is none of this ``kind``, or gives something twice.
    """
    return parsing.of_query(request.query_params.multi_items(), kind)


def media_type_of(request: Request) -> str:
    """The request body's type; octets where it is not said (RFC 9110 8.3).

    Raises:
        Refusal: it is JSON in another encoding than UTF-8. A source may be in any.
    """
    told = request.headers.get("content-type", "application/octet-stream")
    kind, *parameters = (part.strip().lower() for part in told.split(";"))
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
    """Whether a body of this type is JSON (RFC 6839 3.1)."""
    return media_type in {JSON, "text/json"} or media_type.endswith("+json")


async def json_of(request: Request, kind: type[_Model]) -> _Model:
    """The object in the request's short JSON body.

    Raises:
        ClientGone: it did not come whole.
        Refusal: it is none of this ``kind``.
    """
    if not is_json(media_type := media_type_of(request)):
        raise Refusal(
            Problem(
                415, "unsupported-media-type", f"the body is {media_type!r:.80}", f"Send {JSON}."
            )
        )
    length = request.headers.get("content-length")
    body = await service_of(request).bodies.read(request.receive, length, _MAX_BODY)
    try:
        return parsing.parsed(body.take(), kind)
    finally:
        body.release()


def json_response(
    record: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """``record`` as the answer."""
    data = json.dumps(record, separators=(",", ":")).encode("ascii")
    return Response(data, status, headers, JSON)
