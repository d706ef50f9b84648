"""Runs and sessions of one client on its server."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slipway._model.arguments import open_stdin, read_source, stream_bytes
from slipway._model.options import build_options, check_source
from slipway._model.run_request import RunRequest
from slipway._remote.execution import RemoteExecution
from slipway._util.errors import InputError, SlipwayError
from slipway._wire.job import encode_job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway._model.arguments import Source, Stdin
    from slipway._model.options import Options
    from slipway._model.session import AsyncSession
    from slipway._remote.api_client import ApiClient

# Bytes of stdin that travel with the job. Longer input is streamed.
INLINE_STDIN = 64 * 1024


class RemoteRuns:
    """Runs and sessions of one client; they end when this object is closed."""

    def __init__(self, api: ApiClient) -> None:
        self.api = api
        # Sessions that are open or about to open.
        self.sessions: set[AsyncSession] = set()
        self._executions: weakref.WeakSet[RemoteExecution] = weakref.WeakSet()
        self._closed = False

    def check_open(self) -> None:
        """Check that the client is open.

        Raises:
            InputError: the client has been closed.
        """
        if self._closed:
            raise InputError("the client has been closed", "Start runs before, or make another.")

    async def read_request(
        self, source: Source, language: str, stdin: Stdin | None, options: dict[str, Any]
    ) -> RunRequest:
        """Check the arguments of a run; ``language`` is empty in a session.

        Raises:
            InputError: an argument is invalid, or the client has been closed.
        """
        self.check_open()
        opened = open_stdin(stdin)
        text = await read_source(source)
        return RunRequest(text, language, _check_request(text, options), opened)

    async def start(
        self,
        target: str,
        request: RunRequest,
        headers: Mapping[str, str] | None = None,
    ) -> RemoteExecution:
        """Start a run by ``POST target``.

        Raises:
            InputError: the request is invalid; nothing was started.
            SlipwayError: as :meth:`ApiClient.request`.
        """
        self.check_open()
        pieces = request.stdin
        inline = pieces if isinstance(pieces, bytes) and len(pieces) <= INLINE_STDIN else None
        body = encode_job(replace(request, stdin=inline))
        execution = await self._request_start(target, body, headers, request.options)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(execution.cancel)
            if inline is not None:
                await execution.begin(None, interactive=False)
            else:
                feed = stream_bytes(pieces) if isinstance(pieces, bytes) else pieces
                await execution.begin(feed, interactive=True)
            stack.pop_all()
        return execution

    async def close(self) -> list[BaseException]:
        """Refuse new runs, and end all runs and sessions; return the errors of those that failed.

        An error does not keep the other runs from ending.
        """
        self._closed = True
        outcomes = await asyncio.gather(
            *(execution.cancel() for execution in list(self._executions)),
            *(session.close() for session in list(self.sessions)),
            return_exceptions=True,
        )
        return [outcome for outcome in outcomes if isinstance(outcome, BaseException)]

    async def _request_start(
        self,
        target: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None,
        options: Options,
    ) -> RemoteExecution:
        """Request the run. A cancelled caller waits for the answer, and then ends the run."""
        request = asyncio.ensure_future(self.api.request("POST", target, body, headers))
        try:
            answer = await asyncio.shield(request)
        except asyncio.CancelledError:
            # Only with the identifier in the answer can the run be ended.
            with suppress(SlipwayError):
                await self._create_execution(await request, options).cancel()
            raise
        return self._create_execution(answer, options)

    def _create_execution(self, answer: object, options: Options) -> RemoteExecution:
        execution = RemoteExecution(self.api, answer, options)
        self._executions.add(execution)
        return execution


def _check_request(source: bytes, options: dict[str, Any]) -> Options:
    """Return the checked options of a run on a server.

    Raises:
        InputError: the source or an option is invalid, or an option is local.
    """
    if "store" in options:
        raise InputError("store is the server's, not the client's", "Leave store out.")
    check_source(source)
    checked = build_options(options)
    checked.check("")  # only the server knows the name of the source's file
    return checked
