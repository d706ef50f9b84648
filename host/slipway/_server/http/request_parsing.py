"""Parsing of queries and JSON bodies to models of ``_wire``, and the errors for clients."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from slipway._server.problems import SEE, InvalidRequest, Problem, Refusal
from slipway._util.near_names import suggest_name
from slipway._wire.option_models import RunOptionsBody, RunOptionsQuery
from slipway._wire.request_models import Setting, SettingBody, StartBody

if TYPE_CHECKING:
    from collections.abc import Sequence

# More strings than the largest job has: a few each for its files, variables, arguments and outputs.
MAX_TEXTS = 8192
# Of a JSON body without its strings, in bytes.
MAX_STRUCTURE = 256 * 1024
# Of a text that may be a key, in bytes: names of fields and of variables are shorter.
MAX_KEY_BYTES = 1024
# Stand for an escaped backslash and quote; valid JSON has neither in a text.
_BACKSLASH = b"\1"
_QUOTE = b"\2"
_Model = TypeVar("_Model", bound=BaseModel)


def parse_query(items: Sequence[tuple[str, str]], kind: type[_Model]) -> _Model:
    """Return the query of ``kind`` with these names and values.

    Raises:
        Refusal: a name is unknown, missing or there twice, or a value is invalid.
    """
    values = dict(items)
    if len(values) < len(items):
        ((twice, _),) = Counter(name for name, _ in items).most_common(1)
        raise InvalidRequest(f"{twice!r:.80} is twice in the query", "Give it once.")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _build_refusal(error, "query", kind) from None


def parse_body(body: bytes, kind: type[_Model]) -> _Model:
    """Return the object of ``kind`` in a JSON body.

    Raises:
        Refusal: invalid JSON, too many values, a key twice, an unknown or missing field, or an
            invalid value.
    """
    _check_structure(body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            detail = f"the body is no JSON: {_shorten_message(first['msg'])}"
            hint = "Send one JSON object, see RFC 8259."
            raise Refusal(Problem(400, "malformed", detail, hint)) from None
        raise _build_refusal(error, "body", kind) from None


def _check_structure(body: bytes) -> None:
    """Check that a JSON body consists almost only of strings, and has no key twice in an object.

    A body with a value every two bytes would take seconds and gigabytes to parse, and all other
    requests would wait. This check is a few passes over the bytes at the speed of memory.

    Raises:
        Refusal: too many strings, too many bytes beside them, or a key twice.
    """
    # Without its escapes, each quote begins or ends a string.
    bare = body
    if b"\\" in body:
        bare = body.replace(rb"\\", _BACKSLASH).replace(rb"\"", _QUOTE)
    parts = bare.split(b'"')
    if len(parts) // 2 > MAX_TEXTS or sum(map(len, parts[::2])) > MAX_STRUCTURE:
        raise Refusal(
            Problem(
                413,
                "too-large",
                f"the body has more than {MAX_TEXTS} texts, or {MAX_STRUCTURE} bytes beside its "
                "texts",
                "Leave out white space; pack many files into one archive.",
            )
        )
    # Long texts are no names of fields.
    parts[1::2] = [part if len(part) <= MAX_KEY_BYTES else b"" for part in parts[1::2]]
    skeleton = b'"'.join(parts).replace(_QUOTE, rb"\"").replace(_BACKSLASH, rb"\\")
    # Invalid JSON is reported by the parser of the whole body.
    with suppress(ValueError, RecursionError):
        json.loads(skeleton, object_pairs_hook=_check_keys, strict=False)


def _check_keys(pairs: list[tuple[str, Any]]) -> None:
    """Check that no key is twice in an object.

    Raises:
        Refusal: one is.
    """
    names = Counter(name for name, _ in pairs)
    if len(names) < len(pairs):
        ((twice, _),) = names.most_common(1)
        raise InvalidRequest(f"{twice!r:.80} is twice in an object of the body", "Give it once.")


def _build_refusal(error: ValidationError, where: str, kind: type[BaseModel]) -> InvalidRequest:
    """Return the refusal for the first error in a query or body."""
    # Without the value, which may be large or secret, and without a link to pydantic's site.
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if not name:
        return InvalidRequest(f"the {where} {_shorten_message(first['msg'])}")
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"unknown field {name!r:.80} in the {where}", _find_hint(name, kind))
    if first["type"] == "missing":
        return InvalidRequest(f"{name} is missing in the {where}")
    if first["type"].startswith("int_"):
        hint = "Sizes are in bytes, such as 536870912."
        return InvalidRequest(f"{name:.80} in the {where} should be a whole number", hint)
    if first["type"].startswith("float_"):
        hint = "Times are in seconds, such as 5 or 0.25."
        return InvalidRequest(f"{name:.80} in the {where} should be a number", hint)
    return InvalidRequest(f"{name:.80} in the {where}: {_shorten_message(first['msg'])}")


def _find_hint(name: str, kind: type[BaseModel]) -> str:
    """Return a hint for the unknown field ``name``: where it belongs, or a similar name."""
    if not kind.model_fields:
        return "Give it in the body."
    is_run = issubclass(kind, RunOptionsQuery | RunOptionsBody)
    of_setting = Setting.model_fields | SettingBody.model_fields
    if name in of_setting and is_run and not issubclass(kind, Setting | SettingBody):
        return "It is set when the session is opened: POST /v1/sessions"
    if name in StartBody.model_fields:
        return "It is for another request. See: GET /openapi.json"
    # A field of a field is similar to its parent at best.
    return SEE if "." in name else suggest_name(name, kind.model_fields, SEE)


def _shorten_message(text: str) -> str:
    """Return a message of pydantic's as the end of a sentence."""
    text = text.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:200]
