"""From the query and the body of a request to the models of what it may ask for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from slipway._server.problems import SEE, Problem, Refusal
from slipway._util.near_names import hint_at
from slipway._wire.request_models import Limits, Setting, StartBody

if TYPE_CHECKING:
    from collections.abc import Sequence

# More than the largest job has: its files, variables, arguments and outputs have a few texts each.
MAX_TEXTS = 8192
MAX_STRUCTURE = 256 * 1024
_Model = TypeVar("_Model", bound=BaseModel)


def of_query(items: Sequence[tuple[str, str]], kind: type[_Model]) -> _Model:
    """The query of ``kind`` in the names and values of a request's.

    Raises:
        Refusal: there is none.
    """
    told = dict(items)
    if len(told) < len(items):
        ((twice, _),) = Counter(name for name, _ in items).most_common(1)
        raise Refusal(unfit(f"{twice!r:.80} is given twice in the query", "Give it once."))
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        raise Refusal(_of_errors(error, "query", kind)) from None


def parsed(body: bytes, kind: type[_Model]) -> _Model:
    """The object of ``kind`` in a JSON body.

    Raises:
        Refusal: there is none.
    """
    _check_structure(body)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            detail = f"the body is no JSON: {_sentence(first['msg'])}"
            hint = "Send one JSON object, see RFC 8259."
            raise Refusal(Problem(400, "malformed", detail, hint)) from None
        raise Refusal(_of_errors(error, "body", kind)) from None


def _check_structure(body: bytes) -> None:
    """Check that a JSON body is little but texts, before anything is made of it.

    A value of each two bytes would take seconds and gigabytes to read, and all others would wait.
    What is done here is a few passes over the bytes at the speed of memory. Raises Refusal.
    """
    # Without its escapes, each quote begins or ends a text.
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in body else body
    texts = bare.count(b'"') // 2
    if texts <= MAX_TEXTS and sum(map(len, bare.split(b'"')[::2])) <= MAX_STRUCTURE:
        return
    raise Refusal(
        Problem(
            413,
            "too-large",
            f"the body has more than {MAX_TEXTS} texts, or {MAX_STRUCTURE} bytes beside its texts",
            "Leave out white space; pack many files into one archive.",
        )
    )


def _of_errors(error: ValidationError, where: str, kind: type[BaseModel]) -> Problem:
    """What a client is told of the first error in its query or body."""
    # Neither the value, which may be large or secret, nor a link to pydantic's site.
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if not name:
        return unfit(f"the {where} {_sentence(first['msg'])}")
    if first["type"] == "extra_forbidden":
        return unfit(f"there is no {name!r:.80} in the {where}", _meant(name, kind))
    if first["type"] == "missing":
        return unfit(f"{name} is missing in the {where}")
    if first["type"].startswith("int_"):
        hint = "Sizes are in bytes, such as 536870912."
        return unfit(f"{name:.80} in the {where} should be a whole number", hint)
    if first["type"].startswith("float_"):
        hint = "Times are in seconds, such as 5 or 0.25."
        return unfit(f"{name:.80} in the {where} should be a number", hint)
    return unfit(f"{name:.80} in the {where}: {_sentence(first['msg'])}")


def _meant(name: str, kind: type[BaseModel]) -> str:
    """What may have been meant by a field that there is not."""
    if not kind.model_fields:
        return "Give it in the body."
    if name in Setting.model_fields and issubclass(kind, Limits) and not issubclass(kind, Setting):
        return "A session has its own, from its beginning: POST /v1/sessions"
    if name in StartBody.model_fields:
        return "It is for another request. See: GET /openapi.json"
    return hint_at(name, kind.model_fields, SEE)


def _sentence(text: str) -> str:
    text = text.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:200]


def unfit(detail: str, hint: str = SEE) -> Problem:
    """Something in a request cannot be."""
    return Problem(422, "input-error", detail, hint)
