"""Runs on a server: the same as :mod:`slipway._runtime`, through the server's Unix socket."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from slipway._calls import Calls
from slipway._errors import InputError, SlipwayError
from slipway._events import Output
from slipway._remote_execution import RemoteExecution
from slipway._request import check_options, check_source, options_of
from slipway._runtime import LanguageInfo
from slipway._wire import Fields, broken, job_record

if TYPE_CHECKING:
    from types import TracebackType

    from slipway._execution import AsyncExecution
    from slipway._request import Options
    from slipway._result import Result
    from slipway._run import OnOutput

DEFAULT_TIMEOUT = 30.0
MAX_KEY = 128
# Of stdin that travels with the job; more of it is streamed.
INLINE_STDIN = 64 * 1024
MAX_LANGUAGES = 1000


@dataclass(frozen=True, slots=True)
class Health:
    """How a server does: its version, how many machines it has, and how many runs wait."""

    status: str
    version: str
    vms: int
    waiting: int


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
        if not timeout > 0:
            raise InputError(f"timeout is {timeout!r}, and must be more than 0 s")
        self._key = _checked_key(key)
        self._calls = Calls(os.fspath(path), timeout)
        self._executions: weakref.WeakSet[RemoteExecution] = weakref.WeakSet()
        self._closed = False

    async def start(
        self,
        source: str | bytes,
        language: str,
        *,
        stdin: bytes | AsyncIterator[bytes] | None = b"",
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
        if self._closed:
            raise InputError("the client has been closed", "Start runs before.")
        checked, text = _checked(source, language, stdin, options)
        inline = stdin if isinstance(stdin, bytes) and len(stdin) <= INLINE_STDIN else None
        body = job_record(text, language, checked, inline)
        key = _checked_key(key) or self._key
        asked = asyncio.ensure_future(
            self._calls.ask("POST", "/v1/start", body, {"Slipway-Key": key} if key else None)
        )
        try:
            answer = await asyncio.shield(asked)
        except asyncio.CancelledError:
            # Who knows its name can end it; it would go on without anybody who does.
            with suppress(SlipwayError):
                await self._opened(await asked, checked).cancel()
            raise
        execution = self._opened(answer, checked)
        try:
            if inline is not None:
                await execution.begin(None, interactive=False)
            else:
                feed = _chunks(stdin) if isinstance(stdin, bytes) else stdin
                await execution.begin(feed, interactive=True)
        except BaseException:
            await execution.cancel()
            raise
        return execution

    async def run(
        self,
        source: str | bytes,
        language: str,
        *,
        stdin: bytes | AsyncIterator[bytes] = b"",
        on_output: OnOutput | None = None,
        key: str = "",
        **options: Any,
    ) -> Result:
        """Run ``source`` and wait for its end; see :meth:`start`.

        Args:
            source: the program's text.
            language: a language's name.
            stdin: what the program reads.
            on_output: called as ``await on_output(phase, stream, data)`` while the output comes.
                The result holds the output only where this is not given.
            key: whose run it is.
            options: the fields of :class:`slipway.Options`.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            HostError: no server listens, or its host lacks something.
            UnknownOutcome: the server or the machine was lost under the program.
        """
        async with await self.start(source, language, stdin=stdin, key=key, **options) as execution:
            if on_output is not None:
                async for event in execution:
                    if isinstance(event, Output):
                        await on_output(event.phase, event.stream, event.data)
            return await execution.wait()

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
            raise broken(error.message) from None

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
                fields.line("status"),
                fields.line("version"),
                fields.integer("vms"),
                fields.integer("waiting"),
            )
        except InputError as error:
            raise broken(error.message) from None

    async def aclose(self) -> None:
        """Cancel what runs, and leave nothing open."""
        self._closed = True
        ended = await asyncio.gather(
            *(execution.cancel() for execution in list(self._executions)), return_exceptions=True
        )
        await self._calls.aclose()
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _opened(self, answer: object, options: Options) -> RemoteExecution:
        execution = RemoteExecution(self._calls, answer, options)
        self._executions.add(execution)
        return execution


def _checked(
    source: str | bytes, language: str, stdin: object, options: dict[str, Any]
) -> tuple[Options, bytes]:
    """What a run in this process would be refused for as well. Raises InputError."""
    if "store" in options:
        raise InputError("store is the server's: it has one of its own", "Leave store out.")
    if not isinstance(language, str) or not isinstance(stdin, bytes | AsyncIterator | None):
        wrong, value = ("stdin", stdin) if isinstance(language, str) else ("language", language)
        raise InputError(f"{wrong} is of type {type(value).__name__}", "See AsyncClient.start.")
    text = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    check_source(text)
    checked = options_of(options)
    check_options(checked, "")  # only the server knows what the source will be called
    return checked, text


def _checked_key(key: str) -> str:
    if len(key) > MAX_KEY or not key.isascii() or not (key.isprintable() and key == key.strip()):
        raise InputError(
            f"the key {key!r:.60} is no text that a header can have",
            f"Use up to {MAX_KEY} letters and digits.",
        )
    return key


def _language(fields: Fields) -> LanguageInfo:
    return LanguageInfo(
        fields.line("name"),
        fields.texts("aliases", MAX_LANGUAGES),
        fields.texts("suffixes", MAX_LANGUAGES),
        fields.texts("versions", MAX_LANGUAGES),
        fields.flag("built"),
    )


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data
