"""Errors in the answers of a server: problem details (RFC 9457)."""

from __future__ import annotations

from slipway._util.errors import (
    Busy,
    HostError,
    ImageError,
    InputError,
    SlipwayError,
    UnknownOutcome,
)
from slipway._wire.errors import MAX_RETRY
from slipway._wire.fields import Fields, decode_line

# The errors of the types of problems, without "urn:slipway:". Other types follow from the status.
_ERRORS: dict[str, type[SlipwayError]] = {
    "input-error": InputError,
    "network-not-allowed": InputError,
    "image-not-allowed": InputError,
    "busy": Busy,
    "draining": Busy,
    "image-error": ImageError,
    "host-error": HostError,
    "unknown-outcome": UnknownOutcome,
    "session-lost": HostError,
    "session-ended": HostError,
}
# Seconds until another try, if a busy server does not say.
_DEFAULT_RETRY = 1.0


class UnknownRun(InputError):
    """Run or session that the server does not know, or output that the server no longer keeps."""


def decode_problem(status: int, text: bytes) -> SlipwayError:
    """Return the error in a refusal with ``status``; ``text`` may be anything."""
    try:
        problem = Fields(decode_line(text), "the problem")
        kind = problem.read_plain_text("type").removeprefix("urn:slipway:")
        message, hint = problem.read_plain_text("detail"), problem.read_plain_text("hint")
        seconds = _read_retry(problem)
    except InputError:
        kind, message, hint, seconds = "", "", "", _DEFAULT_RETRY
    message = message or f"the server refused with status {status}"
    error = _ERRORS.get(kind) or _choose_by_status(status)
    return Busy(message, hint, seconds) if error is Busy else error(message, hint)


def _read_retry(problem: Fields) -> float:
    if "retry_after" not in problem:
        return _DEFAULT_RETRY
    return min(problem.read_number("retry_after"), MAX_RETRY)


def _choose_by_status(status: int) -> type[SlipwayError]:
    if status in {404, 410}:
        return UnknownRun
    if status == 429:
        return Busy
    return HostError if status in {401, 403} or status >= 500 else InputError
