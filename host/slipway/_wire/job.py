"""JSON form of a job and of a session, for the request of a client."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slipway._model.option import Group
from slipway._model.options import OPTIONS, Tty
from slipway._util.errors import InputError
from slipway._wire.fields import encode_data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._model.options import Options


def encode_job(
    source: bytes, language: str | None, options: Options, stdin: bytes | None
) -> dict[str, Any]:
    """Return the body of ``POST /v1/start`` for a checked source; the answer is a stream of events.

    ``stdin`` is None if it follows as commands, ``language`` is None in a session.

    Raises:
        InputError: an option is local, or a text is not Unicode.
    """
    _refuse_local_options(options)
    record: dict[str, Any] = {
        **_encode_source(source),
        "stream": "events",
        "arguments": list(options.arguments),
        "environment": dict(options.environment),
        "files": [
            {"path": file.path, "mode": file.mode, **encode_data(file.data)}
            for file in options.files
        ],
        "outputs": list(options.outputs),
    }
    if language is not None:
        record |= _encode_language(language)
    if stdin is None:
        record["interactive"] = True
    elif stdin:
        record["stdin"] = encode_data(stdin)
    for name, text in _iterate_texts(options):
        _check_unicode(name, text)
    if isinstance(options.tty, Tty):
        record["tty"] = asdict(options.tty)
    return record | _encode_scalars(options, set(Group))


def encode_session(language: str, options: Options, idle_seconds: float) -> dict[str, Any]:
    """Return the body of ``POST /v1/sessions``.

    Raises:
        InputError: an option is local, or a text is not Unicode.
    """
    _refuse_local_options(options)
    return {
        **_encode_language(language),
        **_encode_scalars(options, {Group.MACHINE}),
        "idle": idle_seconds,
    }


def _encode_source(source: bytes) -> dict[str, str]:
    """Return the source as text, or as base64 if it is not UTF-8."""
    encoded = encode_data(source)
    return {"source" if form == "text" else f"source_{form}": encoded[form] for form in encoded}


def _refuse_local_options(options: Options) -> None:
    for option in OPTIONS.values():
        if option.local and getattr(options, option.name):
            raise InputError(
                f"{option.name} is not available on a server",
                f"Leave out {option.name}, or run without a server.",
            )


def _encode_language(language: str) -> dict[str, str]:
    _check_unicode("language", language)
    name, _, version = language.partition("@")
    return {"language": name, "version": version} if version else {"language": language}


def _encode_scalars(options: Options, groups: set[Group]) -> dict[str, Any]:
    """Return the scalar options of ``groups`` that differ from their defaults."""
    return {
        option.name: value
        for option in OPTIONS.values()
        if option.is_scalar and not option.local and option.group in groups
        if (value := getattr(options, option.name)) != option.default
    }


def _iterate_texts(options: Options) -> Iterator[tuple[str, str]]:
    """Yield all texts of a caller, with the names of their options."""
    for name in ("arguments", "outputs"):
        for text in getattr(options, name):
            yield name, text
    for pair in options.environment:
        for text in pair:
            yield "environment", text
    for file in options.files:
        yield "files", file.path


def _check_unicode(name: str, text: str) -> None:
    """Check that JSON can hold ``text``: a command line may have bytes that are not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{name} has {text[:60]!r}, which is not Unicode and has no form in JSON",
            "Use another name or value, or run without a server.",
        ) from None
