"""Session on a server."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway._model.session import AsyncSession, check_run_options
from slipway._remote.answers import decode_session
from slipway._remote.problems import UnknownRun
from slipway._util.errors import Busy, HostError, InputError, SlipwayError
from slipway._util.identifiers import create_identifier
from slipway._util.threads import run_shielded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway._model.arguments import Source, Stdin
    from slipway._model.execution import AsyncExecution
    from slipway._remote.runs import RemoteRuns


class RemoteSession(AsyncSession):
    """Session that ``POST target`` opens, with ``body`` and ``headers``."""

    def __init__(
        self,
        runs: RemoteRuns,
        language: str,
        target: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        # The client chooses the identifier: a caller that does not wait for the answer can still
        # end the session by it.
        super().__init__(create_identifier(), language)
        self._state = "opening"
        self._runs = runs
        self._open_target = target
        self._body = body
        self._headers = {**(headers or {}), "Slipway-Session": self.id}
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        # For callers after the end.
        self._error: SlipwayError = InputError("the session has been closed", "Open another.")

    @property
    def state(self) -> str:
        """The state, as far as this client knows it; see :attr:`AsyncSession.state`."""
        return self._state

    async def open(self) -> None:
        """Open the session on the server; see :meth:`AsyncSession.open`.

        Waits without limit, because the session may be queued.

        Raises:
            UnknownOutcome: the server went away before its answer.
        """
        if self._opening is None:
            self._runs.check_open()
            self._check_not_ended()
            self._runs.sessions.add(self)
            self._opening = asyncio.create_task(self._request_open(), name="slipway-open")
        try:
            await asyncio.wait([self._opening])
        except asyncio.CancelledError:
            with suppress(SlipwayError):
                await self.close()
            raise
        if not self._opening.cancelled():
            self._opening.result()
        self._check_not_ended()

    async def start(
        self,
        source: Source,
        *,
        stdin: Stdin | None = b"",
        **options: Any,
    ) -> AsyncExecution:
        """Start or queue ``source``; see :meth:`AsyncSession.start`.

        Raises:
            UnknownOutcome: the server went away before its answer.
        """
        self._check_open()
        check_run_options(options)
        try:
            request = await self._runs.read_request(source, "", stdin, options)
            return await self._runs.start(f"{self._target}/start", request)
        except SlipwayError as error:
            await self._update_state(error)
            raise

    async def fork(self) -> RemoteSession:
        """Open a fork on the server; see :meth:`AsyncSession.fork`.

        Raises:
            UnknownOutcome: the server went away before its answer.
        """
        self._check_open()
        fork = RemoteSession(self._runs, self.language, f"{self._target}/fork", None, None)
        try:
            await fork.open()
        except SlipwayError as error:
            await self._update_state(error)
            raise
        return fork

    async def close(self) -> None:
        """End the session on the server; see :meth:`AsyncSession.close`.

        Raises:
            UnknownOutcome: the server does not answer.
        """
        self._set_ended("ended", self._error)
        if self._closing is None:
            self._closing = asyncio.create_task(self._request_close(), name="slipway-close")
        await run_shielded(self._wait_closed())

    async def _wait_closed(self) -> None:
        assert self._closing is not None
        await asyncio.wait([self._closing])
        self._closing.result()

    async def _request_open(self) -> None:
        try:
            answer = decode_session(
                await self._runs.api.request_when_ready(
                    "POST", self._open_target, self._body, self._headers
                )
            )
        except SlipwayError as error:
            self._forget("ended", error)
            raise
        self.id, self.language, self._ports = answer.id, answer.language, answer.ports
        if self._state == "opening":  # not closed in the meantime
            self._state = answer.state

    async def _request_close(self) -> None:
        if self._opening is not None and not self._opening.done():
            # The server notices the closed connection, unless it has just answered.
            self._opening.cancel()
            await asyncio.wait([self._opening])
        try:
            if self._opening is not None:
                # If the session or the server is gone, so is the machine.
                with suppress(UnknownRun, HostError):
                    await self._runs.api.request("DELETE", self._target)
        finally:
            self._runs.sessions.discard(self)

    async def _update_state(self, error: SlipwayError) -> None:
        """Find out if ``error``, which a request has met, means that the session has ended."""
        if isinstance(error, UnknownRun):
            self._forget("ended", error)
        elif isinstance(error, HostError) and not isinstance(error, Busy):
            with suppress(SlipwayError):
                answer = decode_session(await self._runs.api.request("GET", self._target))
                if answer.state != "open":
                    self._forget(answer.state, error)

    def _set_ended(self, state: str, error: SlipwayError) -> None:
        if self._state in {"opening", "open"}:
            self._error = error
        self._state = state

    def _forget(self, state: str, error: SlipwayError) -> None:
        """Set the final state of a session that the server no longer has."""
        self._set_ended(state, error)
        self._runs.sessions.discard(self)

    def _check_open(self) -> None:
        self._runs.check_open()
        if self._state == "opening":
            raise InputError(
                "the session is not open", "Use it as a context manager, or open() it first."
            )
        self._check_not_ended()

    def _check_not_ended(self) -> None:
        if self._state not in {"opening", "open"}:
            raise self._error

    @property
    def _target(self) -> str:
        return f"/v1/sessions/{self.id}"
