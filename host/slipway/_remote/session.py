"""Session on a server."""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway._model.errors import Busy, HostError, InputError, SlipwayError
from slipway._model.session import AsyncSession, check_run_options
from slipway._remote.http import UnknownRun
from slipway._util.threads import run_shielded
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway._model.arguments import Source, Stdin
    from slipway._model.execution import AsyncExecution
    from slipway._remote.runs import RemoteRuns

STATES = ("open", "lost", "ended")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,128}")


class RemoteSession(AsyncSession):
    """Session that is opened by ``POST target`` with ``body``."""

    def __init__(
        self,
        runs: RemoteRuns,
        language: str,
        target: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        # The client chooses the id, so that it can end the session before the answer has come.
        super().__init__(secrets.token_hex(16), language)
        self._runs = runs
        self._target = target
        self._body = body
        self._headers = {**(headers or {}), "Slipway-Session": self.id}
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._why: SlipwayError = InputError("the session has been closed", "Open another.")

    async def open(self) -> None:
        """Open the session; see :meth:`AsyncSession.open`. This may wait in the server's queue.

        Raises:
            UnknownOutcome: the server went away before it had answered.
        """
        if self._opening is None:
            self._runs.check_open()
            self._check_not_over()
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
        self._check_not_over()

    async def start(
        self,
        source: Source,
        *,
        stdin: Stdin | None = b"",
        **options: Any,
    ) -> AsyncExecution:
        """Start ``source``, or queue the run; see :meth:`AsyncSession.start`.

        Raises:
            UnknownOutcome: the server went away before it had answered.
        """
        self._check_open()
        check_run_options(options)
        try:
            return await self._runs.start(f"{self._path}/start", source, None, stdin, options)
        except SlipwayError as error:
            await self._check_lost(error)
            raise

    async def fork(self) -> RemoteSession:
        """Open a fork; see :meth:`AsyncSession.fork`.

        Raises:
            UnknownOutcome: the server went away before it had answered.
        """
        self._check_open()
        fork = RemoteSession(self._runs, self.language, f"{self._path}/fork", None, None)
        try:
            await fork.open()
        except SlipwayError as error:
            await self._check_lost(error)
            raise
        return fork

    async def close(self) -> None:
        """End the session; see :meth:`AsyncSession.close`.

        Raises:
            UnknownOutcome: the server does not answer.
        """
        self._set_state("ended", self._why)
        if self._closing is None:
            self._closing = asyncio.create_task(self._request_close(), name="slipway-close")
        await run_shielded(self._over())

    async def _over(self) -> None:
        assert self._closing is not None
        await asyncio.wait([self._closing])
        self._closing.result()

    async def _request_open(self) -> None:
        try:
            answer = await self._runs.api.request(
                "POST", self._target, self._body, self._headers, may_queue=True
            )
            self.id, self.language, state = _parse_session(answer)
        except SlipwayError as error:
            self._forget("ended", error)
            raise
        if self._state == "opening":  # otherwise it is being closed
            self._state = state

    async def _request_close(self) -> None:
        if self._opening is not None and not self._opening.done():
            # The server notices the closed connection, unless it has just answered.
            self._opening.cancel()
            await asyncio.wait([self._opening])
        try:
            if self._opening is not None:
                # Without the session or the server, the machine is gone as well.
                with suppress(UnknownRun, HostError):
                    await self._runs.api.request("DELETE", self._path)
        finally:
            self._runs.sessions.discard(self)

    async def _check_lost(self, error: SlipwayError) -> None:
        """Ask for the state after ``error``, and mark the session if it is lost or has ended."""
        if isinstance(error, UnknownRun):
            self._forget("ended", error)
        elif isinstance(error, HostError) and not isinstance(error, Busy):
            with suppress(SlipwayError):
                _, _, state = _parse_session(await self._runs.api.request("GET", self._path))
                if state != "open":
                    self._forget(state, error)

    def _set_state(self, state: str, why: SlipwayError) -> None:
        if self._state in {"opening", "open"}:
            self._why = why
        self._state = state

    def _forget(self, state: str, why: SlipwayError) -> None:
        """Mark the session as lost or ended: the server does not have it any more."""
        self._set_state(state, why)
        self._runs.sessions.discard(self)

    def _check_open(self) -> None:
        self._runs.check_open()
        if self._state == "opening":
            raise InputError(
                "the session is not open", "Use it as a context manager, or open() it first."
            )
        self._check_not_over()

    def _check_not_over(self) -> None:
        if self._state not in {"opening", "open"}:
            raise self._why

    @property
    def _path(self) -> str:
        return f"/v1/sessions/{self.id}"


def _parse_session(answer: object) -> tuple[str, str, str]:
    """Return id, language and state of the session in an answer.

    Raises:
        UnknownOutcome: the answer is invalid.
    """
    try:
        fields = Fields(answer, "the answer")
        identifier = fields.text("id")
        if not _IDENTIFIER.fullmatch(identifier):
            raise InputError(f"{identifier!r:.60} is not the id of a session")
        return identifier, fields.plain_text("language"), fields.choice("state", STATES)
    except InputError as error:
        raise make_protocol_error(error.message) from None
