"""Runs and sessions that a client has on its server."""

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
    from slipway._remote.http import ApiClient

# Bytes of stdin that travel with the job; longer input is streamed.
INLINE_STDIN = 64 * 1024


class RemoteRuns:
    """Runs and sessions on the server of ``api``; closing it ends all of them."""

    def __init__(self, api: ApiClient) -> None:
        self.api = api
        self.sessions: set[AsyncSession] = set()
        """Sessions that are open, or may be."""
        self._executions: weakref.WeakSet[RemoteExecution] = weakref.WeakSet()
        self._closed = False

    def check_open(self) -> None:
        """Check that the client is open.

        Raises:
            InputError: the client has been closed.
        """
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
        """Start a run by ``POST target``; ``language`` is None for a run of a session.

        Raises:
            InputError: the request cannot be run as it stands; nothing was started.
            SlipwayError: an error of :meth:`ApiClient.request`.
        """
        self.check_open()
        opened = open_stdin(stdin)
        checked, text = _check_request(await read_source(source), options)
        self.check_open()
        inline = opened if isinstance(opened, bytes) and len(opened) <= INLINE_STDIN else None
        body = encode_job(text, language, checked, inline)
        asked = asyncio.ensure_future(self.api.request("POST", target, body, headers))
        try:
            answer = await asyncio.shield(asked)
        except asyncio.CancelledError:
            # Cancel the run by its id: nobody else would know of it.
            with suppress(SlipwayError):
                await self._add_execution(await asked, checked).cancel()
            raise
        execution = self._add_execution(answer, checked)
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
        """Start nothing more, end all runs and sessions, and return the errors of doing so.

        Errors are returned instead of raised, so that all runs and sessions are tried.
        """
        self._closed = True
        ended = await asyncio.gather(
            *(execution.cancel() for execution in list(self._executions)),
            *(session.close() for session in list(self.sessions)),
            return_exceptions=True,
        )
        return [outcome for outcome in ended if isinstance(outcome, BaseException)]

    def _add_execution(self, answer: object, options: Options) -> RemoteExecution:
        execution = RemoteExecution(self.api, answer, options)
        self._executions.add(execution)
        return execution


def _check_request(source: bytes, options: dict[str, Any]) -> tuple[Options, bytes]:
    """Check a request as for a run in this process, and return options and source.

    Raises:
        InputError: an option or the source is invalid.
    """
    if "store" in options:
        raise InputError("store is the server's: it has one of its own", "Leave store out.")
    check_source(source)
    checked = build_options(options)
    checked.check("")  # only the server knows the name of the source
    return checked, source
