"""Reading of request bodies within bounds: of one body, of all bodies together, and of time.

The room for all bodies together is shared (:mod:`slipway._util.shares`). A body that is being read
gives way; the bodies of runs do not, and leave room for users who hold little.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._server.problems import Problem, Refusal
from slipway._util.shares import Holdings, Share

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    from slipway._server.http.connection import Pace

    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """End of a request whose client has closed the connection; no response is sent."""


class BodyReader:
    """Reader of request bodies within a common bound.

    Args:
        pace: minimum speed of clients.
        most: bytes of all bodies together.

    Attributes:
        holdings: bytes of bodies, by share.
    """

    def __init__(self, pace: Pace, most: int) -> None:
        self._pace = pace
        self.holdings = Holdings(most, leaves_room=True)
        # The bodies being read, in the order in which they began.
        self._reading: dict[RequestBody, asyncio.Timeout] = {}

    async def read(
        self, receive: Receive, length: str | None, limit: int, share: Share
    ) -> RequestBody:
        """Return the body of a request. The caller releases it.

        Args:
            receive: the request's ASGI messages.
            length: its Content-Length, if any.
            limit: the most bytes of this body.
            share: the client's user and key.

        Raises:
            ClientGone: the connection was closed before the end of the body.
            Refusal: more than ``limit`` bytes, too slow, no room for another body now, or the body
                had to give way to another user's.
        """
        if length is not None and int(length) > limit:  # h11 lets only digits pass
            raise Refusal(_build_too_large(limit))
        body = RequestBody(self.holdings, share)
        with ExitStack() as stack:
            stack.callback(body.release)
            stack.callback(self._reading.pop, body, None)
            await self._fill(body, receive, limit)
            del self._reading[body]
            stack.pop_all()
        return body

    async def _fill(self, body: RequestBody, receive: Receive, limit: int) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            deadline = min(clock(), began + body.size / self._pace.rate) + self._pace.body
            try:
                async with asyncio.timeout_at(deadline) as timeout:
                    self._reading[body] = timeout
                    message = await receive()
            except TimeoutError:
                raise Refusal(_GAVE_WAY if body.has_given_way else _TOO_SLOW) from None
            if body.has_given_way:
                raise Refusal(_GAVE_WAY)
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece = message.get("body", b"")
            if body.size + len(piece) > limit:
                raise Refusal(_build_too_large(limit))
            self._make_room(body.share, len(piece))
            body.add(piece)
            if not message.get("more_body", False):
                return

    def _make_room(self, share: Share, amount: int) -> None:
        """Make room for ``amount`` bytes; bodies being read give way, the longest under way first.

        Raises:
            Refusal: no room, and nobody who has more has a body that gives way.
        """
        while not self.holdings.has_room(share, amount):
            body = self._find_giver(share, amount)
            if body is None:
                raise Refusal(_NO_ROOM)
            timeout = self._reading.pop(body)
            body.give_way()
            timeout.reschedule(0.0)

    def _find_giver(self, share: Share, amount: int) -> RequestBody | None:
        """Return the body that gives way to ``share``, if any."""
        for giver in self.holdings.list_givers(share, amount):
            for body in self._reading:
                if body.share == giver and body.size:
                    return body
        return None


class RequestBody:
    """Bytes of one body, which count in ``holdings`` for ``share`` until ``release``."""

    def __init__(self, holdings: Holdings, share: Share) -> None:
        self.share = share
        self.size = 0
        self.has_given_way = False
        self._holdings = holdings
        self._data = bytearray()

    def add(self, piece: bytes) -> None:
        """Append and count ``piece``."""
        self._holdings.add(self.share, len(piece))
        self._data += piece
        self.size += len(piece)

    def give_way(self) -> None:
        """Drop the bytes for the body of another share."""
        self._holdings.take_back(self.share, self.size)
        self._data.clear()
        self.size = 0
        self.has_given_way = True

    def take(self) -> bytes:
        """Return the bytes and drop them here; they still count, for the values parsed of them."""
        data, self._data = bytes(self._data), bytearray()
        return data

    def release(self) -> None:
        """Count the bytes no longer. A second call has no effect."""
        self._holdings.remove(self.share, self.size)
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
_GAVE_WAY = Problem(
    429,
    "busy",
    "the room for bodies is used up, and the body of another user took the room of this one",
    "Send the body faster, or fewer at once.",
    2.0,
)
