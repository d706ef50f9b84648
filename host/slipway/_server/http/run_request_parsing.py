"""Parsing of run requests from the query and body together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slipway._model.options import OPTIONS, build_options
from slipway._model.run_request import RunRequest
from slipway._server.http.request_parsing import parse_body
from slipway._server.kept.retention import OutputChoice
from slipway._server.problems import InvalidRequest
from slipway._util.errors import InputError
from slipway._wire.fields import decode_text_or_base64
from slipway._wire.option_models import read_options
from slipway._wire.request_models import Setting, StartQuery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway._wire.request_models import SessionRunBody, SessionRunQuery


def parse_text_request(
    source: bytes, query: SessionRunQuery, defaults: Mapping[str, str]
) -> tuple[RunRequest, OutputChoice]:
    """Return the run request whose source is the whole body.

    ``defaults`` are those of options that the request leaves out.

    Raises:
        InputError: a combination of options is invalid.
        Refusal: a value is missing, or contradicts another.
    """
    settings = query.model_dump(exclude_unset=True)
    options = {**defaults, **read_options(query)}
    return _build_request(source, b"", options, settings, _read_language(query, settings))


def parse_json_request(
    body: bytes,
    query: SessionRunQuery,
    kind: type[SessionRunBody],
    defaults: Mapping[str, str],
) -> tuple[RunRequest, OutputChoice]:
    """Return the run request in a JSON body of ``kind`` and its query.

    ``defaults`` are those of options that the request leaves out.

    Raises:
        InputError: a combination of options is invalid.
        Refusal: the body is not JSON of this kind, or contradicts the query.
    """
    form = parse_body(body, kind)
    for name in sorted((query.model_fields_set & form.model_fields_set) - OPTIONS.keys()):
        _check_same(name, getattr(query, name), getattr(form, name))
    if (form.source is None) == (form.source_base64 is None):
        raise InvalidRequest("the body needs source or source_base64, and not both")
    try:
        source = decode_text_or_base64(form.source, form.source_base64, "source_base64")
        stdin = form.decode_stdin()
        in_query, in_body = read_options(query), read_options(form)
    except InputError as error:
        raise InvalidRequest(error.message, error.hint) from None
    for name in sorted(in_query.keys() & in_body.keys()):
        _check_same(name, in_query[name], in_body[name])
    options = {**defaults, **in_query, **in_body}
    settings = query.model_dump(exclude_unset=True) | {
        name: getattr(form, name) for name in form.model_fields_set & StartQuery.model_fields.keys()
    }
    return _build_request(source, stdin, options, settings, _read_language(query, settings))


def _check_same(name: str, in_query: object, in_body: object) -> None:
    """Check that a value is the same in the query and in the body.

    Raises:
        Refusal: the values differ.
    """
    if in_query != in_body:
        raise InvalidRequest(
            f"{name} is given in the query and in the body, and they differ",
            "Give it in one of them.",
        )


def join_language(language: str | None, version: str | None) -> str:
    """Return language and version as one name such as ``rust@1.80``.

    Raises:
        Refusal: the language is missing, or has another version already.
    """
    if language is None:
        raise InvalidRequest("language is missing", "Name one of: GET /v1/languages")
    if version is None:
        return language
    name, at, other = language.partition("@")
    if at and other != version:
        raise InvalidRequest(
            "version is given in version and in language, and they differ", "Give it once."
        )
    return f"{name}@{version}"


def _read_language(query: SessionRunQuery, settings: dict[str, Any]) -> str:
    """Return the language of the request; "" for a run in a session."""
    if not isinstance(query, Setting):
        return ""
    return join_language(settings.get("language"), settings.get("version"))


def _build_request(
    source: bytes, stdin: bytes, options: dict[str, Any], settings: dict[str, Any], language: str
) -> tuple[RunRequest, OutputChoice]:
    interactive = settings.get("interactive", False)
    stream = settings.get("stream", "raw")
    if interactive and stdin:
        raise InvalidRequest("stdin is given, but interactive means that stdin comes later")
    if interactive and stream != "events":
        raise InvalidRequest("interactive needs stream=events: a raw stream takes no commands")
    request = RunRequest(source, language, build_options(options), None if interactive else stdin)
    return request, OutputChoice(stream, settings.get("detached", False))
