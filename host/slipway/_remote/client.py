"""Runs on a server: the same as :mod:`slipway._local.runtime`, through the server's Unix socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from slipway._model.arguments import check_language, check_listener
from slipway._model.errors import InputError
from slipway._model.key import check_key
from slipway._model.language_info import LanguageInfo
from slipway._model.session import DEFAULT_IDLE_SECONDS, build_session_options, check_idle_seconds
from slipway._model.values import Bounds, check_value, convert
from slipway._remote.http import Calls
from slipway._remote.runs import RemoteStarts
from slipway._remote.session import RemoteSession
from slipway._util.public import public
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import Fields
from slipway._wire.job import encode_session

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from types import TracebackType

    from slipway._model.arguments import OnOutput, Source, Stdin
    from slipway._model.execution import AsyncExecution
    from slipway._model.result import Result
    from slipway._model.session import AsyncSession

DEFAULT_TIMEOUT = 30.0
MAX_LANGUAGES = 1000
# A day; more is no timeout.
_TIMEOUT = Annotated[float, Bounds(0, 86_400, above=True)]


@public
@dataclass(frozen=True, slots=True)
class Health:
    """How a server does: its version, how many machines it has, and how many runs wait."""

    status: str
    version: str
    vms: int
    waiting: int


@public
class AsyncClient:
    """Runs programs on the server that listens at ``path``; see ``slipway serve``.

    Nothing is connected before it is used. As a context manager it closes itself.

    Args:
        path: the server's Unix socket.
        key: whose the runs are where one does not say, for fairness among those who share the
            server. At most 128 characters of ASCII.
        timeout: seconds that each answer of the server's may take. No bound of a run: it has its
            own limits, and may be queued for as long as it takes.

    Raises:
        InputError: one of them cannot be.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, key: str = "", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        self._key = check_key(key)
        self._calls = Calls(
            str(check_value("path", Path, path)), check_value("timeout", _TIMEOUT, timeout)
        )
        self._starts = RemoteStarts(self._calls)

    async def start(
        self,
        source: Source,
        language: str | None = None,
        *,
        stdin: Stdin | None = b"",
        key: str = "",
        **options: Any,
    ) -> AsyncExecution:
        """Start ``source``, or have it queued; see :meth:`slipway.AsyncRuntime.start`.

        ``options`` are those of :class:`slipway.Options` but ``kernel`` and ``boot_log``.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            Busy: there is no room in the server's queue, or it is about to end.
            HostError: no server listens, or its host lacks something.
            UnknownOutcome: the server went away before it had told what it did.
        """
        headers = self._headers(key)
        if check_language(language, source) is None:
            path = convert("source", Path, source)
            language = language_of_suffix(path, await self.languages())
        return await self._starts.start("/v1/start", source, language, stdin, options, headers)

    async def run(
        self,
        source: Source,
        language: str | None = None,
        *,
        stdin: Stdin = b"",
        on_output: OnOutput | None = None,
        key: str = "",
        **options: Any,
    ) -> Result:
        """Run ``source`` and wait for its end; see :meth:`start`.

        Args:
            source: the program's text, or the Path of its file.
            language: a language's name; where it is left out, the suffix of the Path tells it.
            stdin: what the program reads.
            on_output: called as ``on_output(phase, stream, data)`` while the output comes, and
                awaited where it can be. The result holds the output only where this is not given.
            key: whose run it is.
            options: the fields of :class:`slipway.Options`.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            HostError: no server listens, or its host lacks something.
            UnknownOutcome: the server or the machine was lost under the program.
        """
        check_listener(on_output)
        execution = await self.start(source, language, stdin=stdin, key=key, **options)
        return await execution.collect(on_output)

    def session(
        self,
        language: str,
        *,
        key: str = "",
        idle_seconds: float = DEFAULT_IDLE_SECONDS,
        **options: Any,
    ) -> AsyncSession:
        """A machine for several runs; see :meth:`slipway.AsyncRuntime.session`.

        Nothing is asked before it is opened. It ends with the client at the latest.

        Raises:
            InputError: there can be no such session.
        """
        self._starts.check_open()
        name = convert("language", str, language)
        seconds = check_idle_seconds(idle_seconds)
        body = encode_session(name, build_session_options(options, ""), seconds)
        return RemoteSession(self._starts, name, "/v1/sessions", body, self._headers(key))

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """What the server can run.

        Raises:
            HostError: no server listens.
            UnknownOutcome: it does not answer as one.
        """
        answer = await self._calls.ask("GET", "/v1/languages")
        try:
            items = Fields(answer, "the answer").items("languages", MAX_LANGUAGES)
            return tuple(_language(Fields(item, "a language")) for item in items)
        except InputError as error:
            raise make_protocol_error(error.message) from None

    async def health(self) -> Health:
        """How the server does.

        Raises:
            HostError: no server listens.
            Busy: it is about to end.
            UnknownOutcome: it does not answer as one.
        """
        answer = await self._calls.ask("GET", "/v1/health")
        try:
            fields = Fields(answer, "the answer")
            return Health(
                fields.plain_text("status"),
                fields.plain_text("version"),
                fields.integer("vms"),
                fields.integer("waiting"),
            )
        except InputError as error:
            raise make_protocol_error(error.message) from None

    async def aclose(self) -> None:
        """Cancel what runs, and leave nothing open."""
        failures = await self._starts.close()
        await self._calls.aclose()
        for failure in failures:
            raise failure

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _headers(self, key: str) -> dict[str, str] | None:
        key = check_key(key) or self._key
        return {"Slipway-Key": key} if key else None


def language_of_suffix(path: Path, languages: Iterable[LanguageInfo]) -> str:
    """The name of the language whose suffix ``path`` has, by that suffix where it is an alias.

    Raises:
        InputError: none has it.
    """
    # "mjs" says more than "javascript".
    names = {
        suffix: suffix[1:] if suffix[1:] in info.aliases else info.name
        for info in languages
        for suffix in info.suffixes
    }
    # ".C" is C++ by an old custom; else case means nothing.
    found = names.get(path.suffix) or names.get(path.suffix.lower())
    if found is None:
        what = f"the suffix {path.suffix[:40]!r}" if path.suffix else "a file without a suffix"
        known = ", ".join(sorted(info.name for info in languages))
        raise InputError(f"no language of the server has {what}", f"Name the language: {known}.")
    return found


def _language(fields: Fields) -> LanguageInfo:
    return LanguageInfo(
        fields.plain_text("name"),
        fields.texts("aliases", MAX_LANGUAGES),
        fields.texts("suffixes", MAX_LANGUAGES),
        fields.texts("versions", MAX_LANGUAGES),
        fields.flag("built"),
        fields.plain_text("toolchain"),
        fields.plain_texts("toolchains", MAX_LANGUAGES),
    )
