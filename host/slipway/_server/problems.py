"""Errors as a client gets them: ``application/problem+json`` (RFC 9457), each with a hint."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from slipway._model.errors import (
    Busy,
    HostError,
    ImageError,
    InputError,
    SlipwayError,
    UnknownOutcome,
)
from slipway._util.text import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE = "application/problem+json"
MAX_TEXT = 2000
_PREFIX = "urn:slipway:"

# The nearest class of an error decides. A Busy while the server drains is a 503 (see `draining`).
_STATUSES: tuple[tuple[type[SlipwayError], int, str], ...] = (
    (InputError, 422, "input-error"),
    (Busy, 429, "busy"),
    (ImageError, 503, "image-error"),
    (HostError, 503, "host-error"),
    (UnknownOutcome, 502, "unknown-outcome"),
)
_TITLES = {
    "input-error": "The request cannot be run as it stands",
    "busy": "There is no room for another run now",
    "draining": "The server is about to end",
    "image-error": "An image cannot be made, found or trusted",
    "host-error": "The server's host lacks something",
    "unknown-outcome": "The machine was lost under the program",
    "session-lost": "The machine of the session was lost",
    "session-ended": "The session has ended",
}
SEE = "See: GET /openapi.json"
NO_RUN = "The run may have ended long ago. See: GET /v1/runs"
NO_SESSION = "The session may have ended long ago. See: GET /v1/sessions"


@dataclass(frozen=True, slots=True)
class Problem:
    """One error of a request. ``kind`` is the end of its type, a URN."""

    status: int
    kind: str
    detail: str
    hint: str = ""
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON object."""
        # Of many errors of the core the sentence says all; here something is to be said of each.
        usual = SEE if self.status < 500 else "Look at the server's host: slipway doctor"
        record: dict[str, Any] = {
            "type": _PREFIX + self.kind,
            "title": _TITLES.get(self.kind) or HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": plain(self.detail)[:MAX_TEXT],
            "hint": plain(self.hint or usual)[:MAX_TEXT],
        }
        if self.retry_after is not None:
            record["retry_after"] = self.retry_after
        # ASCII: a lone surrogate in hostile text has no UTF-8.
        return json.dumps(record).encode("ascii")

    def header_items(self) -> list[tuple[bytes, bytes]]:
        """The header fields of its response, but for the length."""
        fields = {"content-type": MEDIA_TYPE, **self.headers}
        if self.retry_after is not None:
            fields["retry-after"] = str(math.ceil(self.retry_after))  # RFC 9110 10.2.3
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]


class Refusal(Exception):
    """A request is answered with ``problem``."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def problem_of(error: SlipwayError) -> Problem:
    """What a client is told of ``error``."""
    for kind, status, name in _STATUSES:
        if isinstance(error, kind):
            retry_after = error.retry_after if isinstance(error, Busy) else None
            return Problem(status, name, error.message, error.hint, retry_after)
    return Problem(500, "internal-error", error.message, error.hint)


def draining() -> Problem:
    """What is answered while the server ends."""
    return Problem(503, "draining", "the server is about to end", "Try again later.", 10.0)


def unknown_run(identifier: str) -> Problem:
    """There is no run of this id, or it is none of the client's."""
    return Problem(404, "not-found", f"there is no run {identifier!r:.80}", NO_RUN)


def unknown_session(identifier: str) -> Problem:
    """There is no session of this id, or it is none of the client's."""
    return Problem(404, "not-found", f"there is no session {identifier!r:.80}", NO_SESSION)


def bug() -> Problem:
    """An error of ours: what it was is for our log."""
    return Problem(
        500,
        "internal-error",
        "the server failed over this request",
        "This is a bug of ours; the server's log has more.",
    )


def of_status(status: int, detail: str, headers: Mapping[str, str]) -> Problem:
    """What the framework refuses by itself: a path that is not there, a method that is not."""
    phrase = HTTPStatus(status).phrase
    kind = phrase.lower().replace(" ", "-")
    return Problem(status, kind, detail.lower(), headers=dict(headers))
