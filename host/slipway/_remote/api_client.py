"""Client of a server's API for an event loop: one request and its bounded answer per connection."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from slipway._remote.api_call import PIECE, ApiCall
from slipway._util.unix_sockets import connect_unix

if TYPE_CHECKING:
    from collections.abc import Mapping


class ApiClient:
    """Client of the server at ``path``, which may take ``timeout`` seconds to answer.

    No connection is kept: none stays open in an idle client, and none turns out to be closed by the
    server after a job was sent.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout

    async def request(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request, and return the object in the answer; {} if the answer is empty.

        Raises:
            SlipwayError: the server refused; the error is the one in the answer.
            HostError: no server listens, or the server has a fault.
            UnknownOutcome: the server went away or did not answer in time.
        """
        call = ApiCall(self.path, method, target, body, headers)
        return await self._exchange(call, self.timeout)

    async def request_when_ready(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request that waits in the server's queue, for any time.

        Return value and exceptions are those of :meth:`request`.
        """
        return await self._exchange(ApiCall(self.path, method, target, body, headers), None)

    async def _exchange(self, call: ApiCall, seconds: float | None) -> dict[str, Any]:
        """Make ``call``; its answer has to begin within ``seconds``."""
        with ExitStack() as stack:
            connected = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connected.setblocking(False)
            try:
                await self._connect(connected, call)
                await self._send(connected, call)
                async with asyncio.timeout(seconds):
                    while not call.answer.status:
                        await self._receive(connected, call)
                async with asyncio.timeout(self.timeout):
                    while not call.answer.is_complete:
                        await self._receive(connected, call)
            except TimeoutError:
                raise call.make_timeout_error(self.timeout) from None
        return call.decode()

    async def _connect(self, connected: socket.socket, call: ApiCall) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await connect_unix(connected, self.path)
        except TimeoutError:
            raise
        except OSError as error:
            raise call.make_connect_error(error) from None

    async def _send(self, connected: socket.socket, call: ApiCall) -> None:
        """Send the request. A large body may take long: only pauses are limited."""
        loop = asyncio.get_running_loop()
        rest = memoryview(call.request)
        try:
            while rest:
                async with asyncio.timeout(self.timeout):
                    await loop.sock_sendall(connected, rest[:PIECE])
                rest = rest[PIECE:]
        except TimeoutError:
            raise
        except OSError:
            # A server that refuses early has answered, and has closed the connection.
            return

    async def _receive(self, connected: socket.socket, call: ApiCall) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(connected, PIECE)
        except OSError as error:
            raise call.make_break_error(error.strerror or type(error).__name__) from None
        call.feed(data)
