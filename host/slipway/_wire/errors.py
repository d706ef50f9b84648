"""JSON form of errors."""

from __future__ import annotations

from typing import Any

from slipway._util import errors
from slipway._util.errors import Busy, InputError, SlipwayError, UnknownOutcome
from slipway._util.text import to_plain_line
from slipway._wire.fields import Fields

# Seconds. Longer times for another try make no sense.
MAX_RETRY = 24 * 3600.0

_ERRORS: dict[str, type[SlipwayError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, SlipwayError)
}


def encode_error(error: SlipwayError) -> dict[str, Any]:
    """Return ``error`` for JSON, with the name of its nearest public class."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
    record = {
        "error": name,
        "message": to_plain_line(error.message),
        "hint": to_plain_line(error.hint),
    }
    if isinstance(error, Busy):
        return {**record, "retry_after": error.retry_after}
    return record


def decode_error(record: object) -> SlipwayError:
    """Return the error in ``record``, or a protocol error if the record is invalid."""
    try:
        fields = Fields(record, "the error")
        kind = _ERRORS.get(fields.read_text("error"), SlipwayError)
        message, hint = fields.read_plain_text("message"), fields.read_plain_text("hint")
        if issubclass(kind, Busy):
            return kind(message, hint, min(fields.read_number("retry_after"), MAX_RETRY))
        return kind(message, hint)
    except InputError as error:
        return make_protocol_error(error.message)


def make_protocol_error(what: str) -> UnknownOutcome:
    """Return the error for a server that breaks the protocol."""
    return UnknownOutcome(
        f"the server broke the protocol: {what}",
        "Check that the server is Slipway of this version.",
    )
