"""Answers of a server, decoded and checked."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._model.health import Health
from slipway._model.language_info import LanguageInfo
from slipway._util.errors import InputError
from slipway._util.socket_limits import MAX_SOCKET_PATH
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import Fields
from slipway._wire.ports import read_ports

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from slipway._model.published_ports import PublishedPort

MAX_LANGUAGES = 1000
# Seconds that a server may take for an answer.
DEFAULT_TIMEOUT = 30.0
RUN_STATES = ("queued", "preparing", "booting", "building", "running", "ended")
SESSION_STATES = ("open", "lost", "ended")
# Another server may have identifiers of another form; they have to fit into a path of a URL.
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """Answer to the start of a run; ``socket`` is the path of its output."""

    id: str
    language: str
    state: str
    position: int | None
    socket: str


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """State of a session on the server."""

    id: str
    language: str
    state: str
    ports: tuple[PublishedPort, ...] = ()


def decode_run(answer: object) -> RunAnswer:
    """Return the run that the server has started.

    Raises:
        UnknownOutcome: the answer is invalid.
    """
    with _translate_errors():
        fields = Fields(answer, "the answer")
        return RunAnswer(
            _read_identifier(fields, "run"),
            fields.read_plain_text("language"),
            fields.read_choice("state", RUN_STATES),
            fields.read_integer("position") if "position" in fields else None,
            _read_socket_path(fields),
        )


def decode_resume(answer: object, offset: int) -> str:
    """Return the path of the socket where an output continues at ``offset``.

    Raises:
        UnknownOutcome: the answer is invalid.
    """
    with _translate_errors():
        fields = Fields(answer, "the answer")
        if fields.read_integer("offset") != offset:
            raise InputError("the output resumes at another offset")
        return _read_socket_path(fields)


def decode_session(answer: object) -> SessionAnswer:
    """Return the state of a session.

    Raises:
        UnknownOutcome: the answer is invalid.
    """
    with _translate_errors():
        fields = Fields(answer, "the answer")
        return SessionAnswer(
            _read_identifier(fields, "session"),
            fields.read_plain_text("language"),
            fields.read_choice("state", SESSION_STATES),
            read_ports(fields) if "ports" in fields else (),
        )


def decode_languages(answer: object) -> tuple[LanguageInfo, ...]:
    """Return the languages of a server.

    Raises:
        UnknownOutcome: the answer is invalid.
    """
    with _translate_errors():
        items = Fields(answer, "the answer").read_items("languages", MAX_LANGUAGES)
        return tuple(_decode_language(Fields(item, "a language")) for item in items)


def decode_health(answer: object) -> Health:
    """Return the health of a server.

    Raises:
        UnknownOutcome: the answer is invalid.
    """
    with _translate_errors():
        fields = Fields(answer, "the answer")
        return Health(
            fields.read_plain_text("status"),
            fields.read_plain_text("version"),
            fields.read_integer("machines"),
            fields.read_integer("waiting"),
            fields.read_plain_text("store"),
        )


def find_language_by_suffix(path: Path, languages: Iterable[LanguageInfo]) -> str:
    """Return the name of the language with the suffix of ``path``, or its alias of that name.

    Raises:
        InputError: no language has that suffix.
    """
    # An alias such as "mjs" is more specific than "javascript".
    names = {
        suffix: suffix[1:] if suffix[1:] in info.aliases else info.name
        for info in languages
        for suffix in info.suffixes
    }
    # ".C" is C++ by convention; otherwise case does not matter.
    found = names.get(path.suffix) or names.get(path.suffix.lower())
    if found is None:
        what = f"the suffix {path.suffix[:40]!r}" if path.suffix else "a file without a suffix"
        known = ", ".join(sorted(info.name for info in languages))
        raise InputError(f"no language of the server has {what}", f"Name the language: {known}.")
    return found


def _decode_language(fields: Fields) -> LanguageInfo:
    return LanguageInfo(
        fields.read_plain_text("name"),
        fields.read_texts("aliases", MAX_LANGUAGES),
        fields.read_texts("suffixes", MAX_LANGUAGES),
        fields.read_texts("versions", MAX_LANGUAGES),
        fields.read_flag("built"),
        fields.read_plain_text("toolchain"),
        fields.read_plain_texts("toolchains", MAX_LANGUAGES),
        fields.read_texts("architectures", MAX_LANGUAGES),
    )


def _read_identifier(fields: Fields, kind: str) -> str:
    identifier = fields.read_text("id")
    if not _PATH_SEGMENT.fullmatch(identifier):
        raise InputError(f"{identifier!r:.60} is not the id of a {kind}")
    return identifier


def _read_socket_path(fields: Fields) -> str:
    path = fields.read_text("socket")
    size = len(path.encode("utf-8", "replace"))
    # A relative path would depend on the client's working directory.
    if not path.startswith("/") or not path.isprintable() or size > MAX_SOCKET_PATH:
        raise InputError(f"{path!r:.120} is not the path of a socket")
    return path


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise UnknownOutcome in place of InputError: the server sent an invalid answer."""
    try:
        yield
    except InputError as error:
        raise make_protocol_error(error.message) from None
