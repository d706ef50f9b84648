"""Runs that a client has started on its server: how it asks for them, and which there are."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from slipway._model.arguments import open_stdin, read_source, stream_bytes
from slipway._model.errors import InputError, SlipwayError
from slipway._model.options import build_options, check_source
from slipway._remote.execution import RemoteExecution
from slipway._wire.job import encode_job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway._model.arguments import Source, Stdin
    from slipway._model.options import Options
    from slipway._model.session import AsyncSession
    from slipway._remote.http import Calls

# Of stdin that travels with the job; more of it is streamed.
INLINE_STDIN = 64 * 1024


class RemoteStarts:
    """Starts runs on the server of ``calls``, until it is closed, which closes all sessions."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.sessions: set[AsyncSession] = set()
        """Those that are open, or may be."""
        self._executions: weakref.WeakSet[RemoteExecution] = weakref.WeakSet()
        self._closed = False

    def check_open(self) -> None:
        """Check that the client has not been closed; raises InputError."""
        if self._closed:
            raise InputError("the client has been closed", "Start runs before.")

    async def start(
        self,
        target: str,
        source: Source,
        language: str | None,
        stdin: Stdin | None,
        options: dict[str, Any],
        headers: Mapping[str, str] | None = None,
    ) -> RemoteExecution:
        """Ask ``target`` for a run; ``language`` is None where a session has one.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            SlipwayError: the one that the server tells, or what :meth:`Calls.ask` raises.
        """
        self.check_open()
        opened = open_stdin(stdin)
        checked, text = _checked(await read_source(source), options)
        self.check_open()
        inline = opened if isinstance(opened, bytes) and len(opened) <= INLINE_STDIN else None
        body = encode_job(text, language, checked, inline)
        asked = asyncio.ensure_future(self.calls.ask("POST", target, body, headers))
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
                feed = stream_bytes(opened) if isinstance(opened, bytes) else opened
                await execution.begin(feed, interactive=True)
        except BaseException:
            await execution.cancel()
            raise
        return execution

    async def close(self) -> list[BaseException]:
        """Start nothing more, and end what there is; the errors of what could not be are returned.

        None of these is raised, for each is to be tried.
        """
        self._closed = True
        ended = await asyncio.gather(
            *(execution.cancel() for execution in list(self._executions)),
            *(session.close() for session in list(self.sessions)),
            return_exceptions=True,
        )
        return [outcome for outcome in ended if isinstance(outcome, BaseException)]

    def _opened(self, answer: object, options: Options) -> RemoteExecution:
        execution = RemoteExecution(self.calls, answer, options)
        self._executions.add(execution)
        return execution


def _checked(source: bytes, options: dict[str, Any]) -> tuple[Options, bytes]:
    """What a run in this process would be refused for as well. Raises InputError."""
    if "store" in options:
        raise InputError("store is the server's: it has one of its own", "Leave store out.")
    check_source(source)
    checked = build_options(options)
    checked.check("")  # only the server knows what the source will be called
    return checked, source
