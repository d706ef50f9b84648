"""Errors of requests as ``application/problem+json`` (RFC 9457), each with a hint."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from slipway._model.network_ceiling import AboveCeiling
from slipway._run.build_policy import BuildNotAllowed
from slipway._util.errors import (
    Busy,
    HostError,
    ImageError,
    InputError,
    SlipwayError,
    UnknownOutcome,
)
from slipway._util.text import to_plain_line

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE = "application/problem+json"
# Of a detail or hint, in characters.
MAX_TEXT = 2000
_PREFIX = "urn:slipway:"

# The first class that an error is an instance of decides. A Busy of a server that drains is a 503
# instead (see `DRAINING`).
_STATUSES: tuple[tuple[type[SlipwayError], int, str], ...] = (
    (AboveCeiling, 403, "network-not-allowed"),
    (BuildNotAllowed, 403, "image-not-allowed"),
    (InputError, 422, "input-error"),
    (Busy, 429, "busy"),
    (ImageError, 503, "image-error"),
    (HostError, 503, "host-error"),
    (UnknownOutcome, 502, "unknown-outcome"),
)
_TITLES = {
    "input-error": "Invalid request",
    "network-not-allowed": "The network is above the server's ceiling",
    "image-not-allowed": "The image is not in the store, and may not be made",
    "busy": "No room for another run now",
    "draining": "The server is shutting down",
    "image-error": "The image cannot be built, found or verified",
    "host-error": "The server's host lacks something",
    "unknown-outcome": "The machine was lost during the run",
    "session-lost": "The machine of the session was lost",
    "session-ended": "The session has ended",
}
SEE = "See: GET /openapi.json"


@dataclass(frozen=True, slots=True)
class Problem:
    """Error response to one request; ``kind`` is the end of its type, a URN.

    ``retry_after`` is in seconds, ``headers`` are fields beside those of every problem.
    """

    status: int
    kind: str
    detail: str
    hint: str = ""
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode_body(self) -> bytes:
        """Return the JSON object."""
        # Errors of the core may have a detail without a hint; a problem always has both.
        default = SEE if self.status < 500 else "Check the server's host: slipway doctor"
        record: dict[str, Any] = {
            "type": _PREFIX + self.kind,
            "title": _TITLES.get(self.kind) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": to_plain_line(self.detail)[:MAX_TEXT],
            "hint": to_plain_line(self.hint or default)[:MAX_TEXT],
        }
        if self.retry_after is not None:
            record["retry_after"] = self.retry_after
        # ASCII: a lone surrogate in hostile text has no UTF-8.
        return json.dumps(record).encode("ascii")

    def encode_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the header fields of the response, except its length."""
        fields = {"content-type": MEDIA_TYPE, **self.headers}
        if self.retry_after is not None:
            fields["retry-after"] = str(math.ceil(self.retry_after))  # RFC 9110 10.2.3
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]


class Refusal(Exception):
    """End of a request's handling; ``problem`` is the response."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class InvalidRequest(Refusal):
    """Refusal of a request whose head, query or body has an invalid value."""

    def __init__(self, detail: str, hint: str = SEE) -> None:
        super().__init__(Problem(422, "input-error", detail, hint))


class NotFound(Refusal):
    """Refusal of a request about a run, session or file that the client cannot see."""

    def __init__(self, detail: str, hint: str) -> None:
        super().__init__(Problem(404, "not-found", detail, hint))


DRAINING = Problem(503, "draining", "the server is shutting down", "Try again later.", 10.0)
# The server's log has the error itself, which may tell a client too much.
BUG = Problem(
    500,
    "internal-error",
    "the server failed on this request",
    "This is a bug in Slipway; the server's log has more.",
)


def describe_error(error: SlipwayError) -> Problem:
    """Return the problem for an error of the core."""
    for kind, status, name in _STATUSES:
        if isinstance(error, kind):
            retry_after = error.retry_after if isinstance(error, Busy) else None
            return Problem(status, name, error.message, error.hint, retry_after)
    return Problem(500, "internal-error", error.message, error.hint)


def describe_status(status: int, detail: str, headers: Mapping[str, str]) -> Problem:
    """Return the problem for a refusal of the framework: an unknown path or method."""
    phrase = HTTPStatus(status).phrase
    kind = phrase.lower().replace(" ", "-")
    return Problem(status, kind, detail.lower(), headers=dict(headers))
