"""Reading of request bodies within bounds: of one body, of all bodies together, and of time."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._server.problems import Problem, Refusal
from slipway._util.units import MIB

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    from slipway._server.http.connection import Pace

    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# The most bytes of all bodies together: those being read, and those of runs that have not ended.
HELD_BYTES = 256 * MIB


class ClientGone(Exception):
    """End of a request whose client has closed the connection; no response is sent."""


class BodyReader:
    """Reader of request bodies within a common bound.

    Args:
        pace: minimum speed of clients.
        most: bytes of all bodies together.
    """

    def __init__(self, pace: Pace, most: int = HELD_BYTES) -> None:
        self._pace = pace
        self._most = most
        self.held = 0

    async def read(self, receive: Receive, length: str | None, limit: int) -> RequestBody:
        """Return the body of a request. The caller releases it.

        Args:
            receive: the request's ASGI messages.
            length: its Content-Length, if any.
            limit: the most bytes of this body.

        Raises:
            ClientGone: the connection was closed before the end of the body.
            Refusal: more than ``limit`` bytes, too slow, or no room for another body now.
        """
        if length is not None and int(length) > limit:  # h11 lets only digits pass
            raise Refusal(_build_too_large(limit))
        body = RequestBody(self)
        with ExitStack() as stack:
            stack.callback(body.release)
            await self._fill(body, receive, limit)
            stack.pop_all()
        return body

    async def _fill(self, body: RequestBody, receive: Receive, limit: int) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            deadline = min(clock(), began + body.size / self._pace.rate) + self._pace.body
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Refusal(_TOO_SLOW) from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece = message.get("body", b"")
            if body.size + len(piece) > limit:
                raise Refusal(_build_too_large(limit))
            if self.held + len(piece) > self._most:
                raise Refusal(_NO_ROOM)
            self.held += len(piece)
            body.add(piece)
            if not message.get("more_body", False):
                return


class RequestBody:
    """Bytes of one body, and their share of the common bound until ``release``."""

    def __init__(self, owner: BodyReader) -> None:
        self._owner = owner
        self._data = bytearray()
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Append ``piece``."""
        self._data += piece
        self.size += len(piece)

    def take(self) -> bytes:
        """Return the bytes and drop them here; their share stays, for the values parsed of them."""
        data, self._data = bytes(self._data), bytearray()
        return data

    def release(self) -> None:
        """Return the share to the reader. A second call has no effect."""
        self._owner.held -= self.size
        self.size = 0


def _build_too_large(limit: int) -> Problem:
    return Problem(
        413,
        "too-large",
        f"the body has more than {limit} bytes",
        "At most 4 MiB for a source alone; --body-limit of the server for a job as JSON.",
    )


_TOO_SLOW = Problem(408, "slow-request", "the body comes too slowly", "Send it without pauses.")
_NO_ROOM = Problem(429, "busy", "other requests use all room for bodies", "Try again later.", 2.0)
