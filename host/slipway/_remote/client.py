"""Client of a server: the interface of a runtime, over the server's Unix socket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from slipway._model.arguments import check_language, check_listener
from slipway._model.key import check_key
from slipway._model.session import DEFAULT_IDLE_SECONDS, build_session_options, check_idle_seconds
from slipway._model.values import Bounds, check_value, convert
from slipway._remote.answers import (
    DEFAULT_TIMEOUT,
    decode_health,
    decode_languages,
    find_language_by_suffix,
)
from slipway._remote.api_client import ApiClient
from slipway._remote.runs import RemoteRuns
from slipway._remote.session import RemoteSession
from slipway._util.public import public
from slipway._wire.job import encode_session

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from slipway._model.arguments import OnOutput, Source, Stdin
    from slipway._model.execution import AsyncExecution
    from slipway._model.health import Health
    from slipway._model.language_info import LanguageInfo
    from slipway._model.result import Result
    from slipway._model.session import AsyncSession

# Seconds; at most one day.
_TIMEOUT = Annotated[float, Bounds(0, 86_400, above=True)]


@public
class AsyncClient:
    """Client of the server that listens at ``path``; see ``slipway serve``.

    The client connects for each request. As a context manager, the client is closed at the end of
    the block.

    Args:
        path: Unix socket of the server.
        key: name of the share of the queue for runs that do not set one, for fairness among
            clients of the server. At most 128 printable ASCII characters.
        timeout: longest time for each answer of the server, in seconds. Runs have their own
            limits, and may wait in the queue for any time.

    Raises:
        InputError: an argument is invalid.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, key: str = "", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        self._key = check_key(key)
        self._api = ApiClient(
            str(check_value("path", Path, path)), check_value("timeout", _TIMEOUT, timeout)
        )
        self._runs = RemoteRuns(self._api)

    async def start(
        self,
        source: Source,
        language: str | None = None,
        *,
        stdin: Stdin | None = b"",
        key: str = "",
        **options: Any,
    ) -> AsyncExecution:
        """Start ``source``, or queue the run; see :meth:`slipway.AsyncRuntime.start`.

        ``options`` are the fields of :class:`slipway.Options` except ``boot_log``; ``kernel`` is a
        name, no path.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            Busy: the queue of the server is full, or the server is about to end.
            HostError: no server listens, or its host lacks something.
            UnknownOutcome: the server went away before its answer.
        """
        headers = self._build_headers(key)
        name = check_language(language, source)
        if name is None:
            path = convert("source", Path, source)
            name = find_language_by_suffix(path, await self.languages())
        request = await self._runs.read_request(source, name, stdin, options)
        return await self._runs.start("/v1/start", request, headers)

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
            source: text of the program, or the Path of its file.
            language: name of a language; optional for a Path whose suffix names it.
            stdin: input of the program.
            on_output: called as ``on_output(phase, stream, data)`` for each piece of output, and
                awaited if it returns an awaitable. Without it, the result holds the output.
            key: name of the caller's share of the queue.
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
        """Return a session; see :meth:`slipway.AsyncRuntime.session`.

        The first request is sent when the session is opened. A session ends with its client at the
        latest.

        Raises:
            InputError: an argument is invalid.
        """
        self._runs.check_open()
        name = convert("language", str, language)
        seconds = check_idle_seconds(idle_seconds)
        body = encode_session(name, build_session_options(options, ""), seconds)
        return RemoteSession(self._runs, name, "/v1/sessions", body, self._build_headers(key))

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """List the languages that the server can run.

        Raises:
            HostError: no server listens.
            UnknownOutcome: the answer is missing or invalid.
        """
        return decode_languages(await self._api.request("GET", "/v1/languages"))

    async def health(self) -> Health:
        """Ask for the state of the server.

        Raises:
            HostError: no server listens.
            Busy: the server is about to end.
            UnknownOutcome: the answer is missing or invalid.
        """
        return decode_health(await self._api.request("GET", "/v1/health"))

    async def aclose(self) -> None:
        """Cancel all runs, and end all sessions."""
        failures = await self._runs.close()
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

    def _build_headers(self, key: str) -> dict[str, str] | None:
        key = check_key(key) or self._key
        return {"Slipway-Key": key} if key else None
