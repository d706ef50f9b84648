"""A session on a server."""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway._model.errors import Busy, HostError, InputError, SlipwayError
from slipway._model.session import AsyncSession, check_run_options
from slipway._remote.http import UnknownRun
from slipway._util.threads import uninterrupted
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway._model.arguments import Source, Stdin
    from slipway._model.execution import AsyncExecution
    from slipway._remote.runs import RemoteStarts

STATES = ("open", "lost", "ended")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,128}")


class RemoteSession(AsyncSession):
    """A session that is opened by ``body`` to ``target``."""

    def __init__(
        self,
        starts: RemoteStarts,
        language: str,
        target: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        # It is ours to choose: who does not wait for the answer can have it ended by its name.
        super().__init__(secrets.token_hex(16), language)
        self._starts = starts
        self._target = target
        self._body = body
        self._headers = {**(headers or {}), "Slipway-Session": self.id}
        self._asked: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._why: SlipwayError = InputError("the session has been closed", "Open another.")

    async def open(self) -> None:
        """Have the server open it; see :meth:`AsyncSession.open`.

        However long it takes: there may be a queue, as there is for runs.

        Raises:
            UnknownOutcome: the server went away before it had told what it did.
        """
        if self._asked is None:
            self._starts.check_open()
            self._check_not_over()
            self._starts.sessions.add(self)
            self._asked = asyncio.create_task(self._ask(), name="slipway-open")
        try:
            await asyncio.wait([self._asked])
        except asyncio.CancelledError:
            with suppress(SlipwayError):
                await self.close()
            raise
        if not self._asked.cancelled():
            self._asked.result()
        self._check_not_over()

    async def start(
        self,
        source: Source,
        *,
        stdin: Stdin | None = b"",
        **options: Any,
    ) -> AsyncExecution:
        """Start ``source``, or have it queued; see :meth:`AsyncSession.start`.

        Raises:
            UnknownOutcome: the server went away before it had told what it did.
        """
        self._check_open()
        check_run_options(options)
        try:
            return await self._starts.start(f"{self._place}/start", source, None, stdin, options)
        except SlipwayError as error:
            await self._look(error)
            raise

    async def fork(self) -> RemoteSession:
        """Have the server open another; see :meth:`AsyncSession.fork`.

        Raises:
            UnknownOutcome: the server went away before it had told what it did.
        """
        self._check_open()
        fork = RemoteSession(self._starts, self.language, f"{self._place}/fork", None, None)
        try:
            await fork.open()
        except SlipwayError as error:
            await self._look(error)
            raise
        return fork

    async def close(self) -> None:
        """Have the server end it; see :meth:`AsyncSession.close`.

        Raises:
            UnknownOutcome: the server does not answer.
        """
        self._end("ended", self._why)
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="slipway-close")
        await uninterrupted(self._over())

    async def _over(self) -> None:
        assert self._closing is not None
        await asyncio.wait([self._closing])
        self._closing.result()

    async def _ask(self) -> None:
        try:
            answer = await self._starts.calls.ask(
                "POST", self._target, self._body, self._headers, patient=True
            )
            self.id, self.language, state = _told(answer)
        except SlipwayError as error:
            self._lose("ended", error)
            raise
        if self._state == "opening":  # else it is being closed
            self._state = state

    async def _close(self) -> None:
        if self._asked is not None and not self._asked.done():
            # The server notices that nobody waits any more, unless it has just answered.
            self._asked.cancel()
            await asyncio.wait([self._asked])
        try:
            if self._asked is not None:
                # No such session, or no server: then there is no machine of it either.
                with suppress(UnknownRun, HostError):
                    await self._starts.calls.ask("DELETE", self._place)
        finally:
            self._starts.sessions.discard(self)

    async def _look(self, error: SlipwayError) -> None:
        """See whether it was refused because the session is no more."""
        if isinstance(error, UnknownRun):
            self._lose("ended", error)
        elif isinstance(error, HostError) and not isinstance(error, Busy):
            with suppress(SlipwayError):
                _, _, state = _told(await self._starts.calls.ask("GET", self._place))
                if state != "open":
                    self._lose(state, error)

    def _end(self, state: str, why: SlipwayError) -> None:
        if self._state in {"opening", "open"}:
            self._why = why
        self._state = state

    def _lose(self, state: str, why: SlipwayError) -> None:
        """The server has none of it."""
        self._end(state, why)
        self._starts.sessions.discard(self)

    def _check_open(self) -> None:
        self._starts.check_open()
        if self._state == "opening":
            raise InputError(
                "the session is not open", "Use it as a context manager, or open() it first."
            )
        self._check_not_over()

    def _check_not_over(self) -> None:
        if self._state not in {"opening", "open"}:
            raise self._why

    @property
    def _place(self) -> str:
        return f"/v1/sessions/{self.id}"


def _told(answer: object) -> tuple[str, str, str]:
    """The id, language and state of a session that a server tells. Raises UnknownOutcome."""
    try:
        fields = Fields(answer, "the answer")
        identifier = fields.text("id")
        if not _IDENTIFIER.fullmatch(identifier):
            raise InputError(f"{identifier!r:.60} is no id of a session")
        return identifier, fields.plain_text("language"), fields.choice("state", STATES)
    except InputError as error:
        raise make_protocol_error(error.message) from None
