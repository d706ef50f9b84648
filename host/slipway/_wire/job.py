"""The JSON form of what a client asks for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slipway._model.errors import InputError
from slipway._model.option import Group
from slipway._model.options import OPTIONS, Tty
from slipway._wire.fields import data_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._model.options import Options


def job_record(
    source: bytes, language: str | None, options: Options, stdin: bytes | None
) -> dict[str, Any]:
    """The body of ``POST /v1/start`` for a checked source, to be answered by a stream of events.

    ``stdin`` is None where it comes as commands; ``language`` where a session has one.

    Raises:
        InputError: an option is no business of a server's, or a text is no Unicode.
    """
    _check_local(options)
    record: dict[str, Any] = {
        **_source_record(source),
        "stream": "events",
        "arguments": list(options.arguments),
        "environment": dict(options.environment),
        "files": [
            {"path": file.path, "mode": file.mode, **data_record(file.data)}
            for file in options.files
        ],
        "outputs": list(options.outputs),
    }
    if language is not None:
        record |= _language_record(language)
    if stdin is None:
        record["interactive"] = True
    elif stdin:
        record["stdin"] = data_record(stdin)
    for name, text in _texts(options):
        _check_unicode(name, text)
    if isinstance(options.tty, Tty):
        record["tty"] = asdict(options.tty)
    return record | _scalars_record(options, set(Group))


def session_record(language: str, options: Options, idle_seconds: float) -> dict[str, Any]:
    """The body of ``POST /v1/sessions``.

    Raises:
        InputError: an option is no business of a server's, or a text is no Unicode.
    """
    _check_local(options)
    return {
        **_language_record(language),
        **_scalars_record(options, {Group.MACHINE}),
        "idle": idle_seconds,
    }


def _source_record(source: bytes) -> dict[str, str]:
    """The source as text, or as base64 where it is not UTF-8: JSON has no bytes."""
    encoded = data_record(source)
    return {"source" if form == "text" else f"source_{form}": encoded[form] for form in encoded}


def _check_local(options: Options) -> None:
    for option in OPTIONS.values():
        if option.local and getattr(options, option.name):
            raise InputError(
                f"{option.name} is for machines that this process starts, not for a server's",
                f"Leave {option.name} out, or run without a server.",
            )


def _language_record(language: str) -> dict[str, str]:
    _check_unicode("language", language)
    name, _, version = language.partition("@")
    return {"language": name, "version": version} if version else {"language": language}


def _scalars_record(options: Options, groups: set[Group]) -> dict[str, Any]:
    """Return the scalar options of ``groups`` that differ from their defaults."""
    return {
        option.name: value
        for option in OPTIONS.values()
        if option.is_scalar and not option.local and option.group in groups
        if (value := getattr(options, option.name)) != option.default
    }


def _texts(options: Options) -> Iterator[tuple[str, str]]:
    """All texts of a caller's, each with the name of its option."""
    for name in ("arguments", "outputs"):
        for text in getattr(options, name):
            yield name, text
    for pair in options.environment:
        for text in pair:
            yield "environment", text
    for file in options.files:
        yield "files", file.path


def _check_unicode(name: str, text: str) -> None:
    """Refuse what a command line made of bytes that are not UTF-8: JSON has no form for it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{name} has {text[:60]!r}, which is not Unicode, and a server is told of it in JSON",
            "Give it another name or value, or run without a server.",
        ) from None
