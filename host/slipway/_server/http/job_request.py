"""The one job that a request's query and body make together."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slipway._model.input_file import InputFile
from slipway._model.options import OPTIONS
from slipway._server.http.request_parsing import parsed, unfit
from slipway._server.problems import Refusal
from slipway._wire.request_models import Setting, StartQuery, TerminalSize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway._wire.request_models import Data, SessionRunBody, SessionRunQuery


@dataclass(frozen=True, slots=True)
class Job:
    """A request for a run, put together; ``options`` are fields of :class:`slipway.Options`.

    ``stdin`` is None where it comes as commands; ``language`` is empty where it is a session's.
    """

    source: bytes
    language: str
    stdin: bytes | None
    options: Mapping[str, Any]
    stream: str = "raw"
    detached: bool = False


_SCALAR_NAMES = frozenset(StartQuery.model_fields)


def job_of_text(source: bytes, query: SessionRunQuery) -> Job:
    """The job whose source is the whole body.

    Raises:
        Refusal: something is missing or contradicts something else.
    """
    scalars = query.model_dump(exclude_unset=True)
    return _job(source, b"", {}, scalars, _language(query, scalars))


def job_of_json(body: bytes, query: SessionRunQuery, kind: type[SessionRunBody]) -> Job:
    """The job in a JSON body of ``kind``.

    Raises:
        Refusal: it is no JSON, not of that form, or contradicts the query.
    """
    told = parsed(body, kind)
    for name in sorted(query.model_fields_set & told.model_fields_set):
        if getattr(query, name) != getattr(told, name):
            raise Refusal(
                unfit(
                    f"{name} is given in the query and in the body, and they differ",
                    "Give it in one of them.",
                )
            )
    if (told.source is None) == (told.source_base64 is None):
        raise Refusal(unfit("the body has to have source or source_base64, and not both"))
    source = _bytes(told.source, told.source_base64, "source_base64")
    stdin = told.stdin if isinstance(told.stdin, str) else _data(told.stdin, "stdin")
    more = {
        "arguments": tuple(told.arguments),
        "environment": tuple(told.environment.items()),
        "files": tuple(
            InputFile(file.path, _data(file, f"files.{number}"), file.mode)
            for number, file in enumerate(told.files)
        ),
        "outputs": tuple(told.outputs),
    }
    scalars = query.model_dump(exclude_unset=True) | {
        name: getattr(told, name) for name in told.model_fields_set & _SCALAR_NAMES
    }
    given = stdin.encode() if isinstance(stdin, str) else stdin
    return _job(source, given, more, scalars, _language(query, scalars))


def language_of(language: str | None, version: str | None) -> str:
    """The language that is meant, as ``rust@1.80`` where a version is.

    Raises:
        Refusal: it is missing, or its version is given twice.
    """
    if language is None:
        raise Refusal(unfit("language is missing", "Name one of: GET /v1/languages"))
    if version is None:
        return language
    name, at, other = language.partition("@")
    if at and other != version:
        raise Refusal(
            unfit("version is given in version and in language, and they differ", "Give it once.")
        )
    return f"{name}@{version}"


def _language(query: SessionRunQuery, scalars: dict[str, Any]) -> str:
    """The job's language; none of its own where it is for a session."""
    if not isinstance(query, Setting):
        return ""
    return language_of(scalars.get("language"), scalars.get("version"))


def _job(
    source: bytes, stdin: bytes, more: dict[str, Any], scalars: dict[str, Any], language: str
) -> Job:
    interactive = scalars.get("interactive", False)
    stream = scalars.get("stream", "raw")
    if interactive and stdin:
        raise Refusal(unfit("stdin is given, and interactive says that it comes later"))
    if interactive and stream != "events":
        raise Refusal(unfit("interactive needs stream=events: a raw stream takes no commands"))
    given = {name: scalars[name] for name in OPTIONS if scalars.get(name) is not None}
    if isinstance(size := scalars.get("tty"), TerminalSize):
        given["tty"] = size.to_tty()
    return Job(
        source,
        language,
        None if interactive else stdin,
        {**more, **given},
        stream,
        scalars.get("detached", False),
    )


def _data(data: Data, where: str) -> bytes:
    if (data.text is None) == (data.base64 is None):
        raise Refusal(unfit(f"{where} has to have text or base64, and not both"))
    return _bytes(data.text, data.base64, f"{where}.base64")


def _bytes(text: str | None, encoded: str | None, where: str) -> bytes:
    if text is not None:
        return text.encode()
    assert encoded is not None
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(unfit(f"{where} is no base64", "See RFC 4648, section 4.")) from None
