"""JSON form of a job and of a session, for the request of a client."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slipway._model.input_file import InputFile
from slipway._model.network import Network
from slipway._model.option import Group
from slipway._model.options import OPTIONS, Tty
from slipway._util.data_form import encode_data
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway._model.options import Options
    from slipway._model.run_request import RunRequest


def encode_job(request: RunRequest) -> dict[str, Any]:
    """Return the body of ``POST /v1/start``; the answer is a stream of events.

    Input other than bytes follows as commands.

    Raises:
        InputError: an option is local, or a text is not Unicode.
    """
    options, stdin = request.options, request.stdin
    _refuse_local_options(options)
    record = {
        **_encode_source(request.source),
        "stream": "events",
        **_encode_options(options, set(Group)),
    }
    if request.language:
        record |= _encode_language(request.language)
    if not isinstance(stdin, bytes):
        record["interactive"] = True
    elif stdin:
        record["stdin"] = encode_data(stdin)
    return record


def encode_session(language: str, options: Options, idle_seconds: float) -> dict[str, Any]:
    """Return the body of ``POST /v1/sessions``.

    Raises:
        InputError: an option is local, or a text is not Unicode.
    """
    _refuse_local_options(options)
    return {
        **_encode_language(language),
        **_encode_options(options, {Group.MACHINE}),
        "idle": idle_seconds,
    }


def _encode_source(source: bytes) -> dict[str, str]:
    """Return the source as text, or as base64 if it is not UTF-8."""
    encoded = encode_data(source)
    return {"source" if form == "text" else f"source_{form}": encoded[form] for form in encoded}


def _refuse_local_options(options: Options) -> None:
    for option in OPTIONS.values():
        if option.is_local_value(getattr(options, option.name)):
            raise InputError(
                f"{option.name} is not available on a server",
                f"Leave out {option.name}, or run without a server.",
            )


def _encode_language(language: str) -> dict[str, str]:
    _check_unicode("language", language)
    name, _, version = language.partition("@")
    return {"language": name, "version": version} if version else {"language": language}


def _encode_options(options: Options, groups: set[Group]) -> dict[str, Any]:
    """Return the options of ``groups`` that differ from their defaults."""
    record = {}
    for option in OPTIONS.values():
        value = getattr(options, option.name)
        if not option.is_remote or option.group not in groups or value == option.default:
            continue
        for text in _iterate_texts(value):
            _check_unicode(option.name, text)
        record[option.name] = _ENCODERS.get(option.type, _return_unchanged)(value)
    return record


def _encode_files(files: tuple[InputFile, ...]) -> list[dict[str, Any]]:
    return [{"path": file.path, "mode": file.mode, **encode_data(file.data)} for file in files]


def _return_unchanged(value: Any) -> Any:
    return value


# Conversions to JSON, by the type of the option.
_ENCODERS: dict[Any, Callable[[Any], Any]] = {
    tuple[str, ...]: list,
    tuple[tuple[str, str], ...]: dict,
    tuple[InputFile, ...]: _encode_files,
    Tty: asdict,
    Network: Network.record,
}


def _iterate_texts(value: object) -> Iterator[str]:
    """Yield all texts of a caller in the value of an option."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, InputFile):
        yield value.path
    elif isinstance(value, tuple):
        for item in value:
            yield from _iterate_texts(item)


def _check_unicode(name: str, text: str) -> None:
    """Check that JSON can hold ``text``: a command line may have bytes that are not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{name} has {text[:60]!r}, which is not Unicode and has no form in JSON",
            "Use another name or value, or run without a server.",
        ) from None
