"""Request bodies: bounded in size, in time, and in what all of them hold together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slipway._model.options import MIB
from slipway._server.problems import Problem, Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    from slipway._server.http.connection import Pace

    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

HELD_BYTES = 256 * MIB
"""The most that all bodies may have together, of those that are read and of runs that last."""


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


class Bodies:
    """Reads bodies within a common bound.

    Args:
        pace: how slowly they may come.
        most: bytes of all bodies together.
    """

    def __init__(self, pace: Pace, most: int = HELD_BYTES) -> None:
        self._pace = pace
        self._most = most
        self.held = 0

    async def read(self, receive: Receive, length: str | None, limit: int) -> Body:
        """Read a request's body; ``length`` is its Content-Length, if it has one.

        Raises:
            ClientGone: it ended within.
            Refusal: it is larger than ``limit``, comes too slowly, or is too much for now.
        """
        if length is not None and int(length) > limit:  # h11 lets only digits pass
            raise Refusal(_too_large(limit))
        body = Body(self)
        try:
            await self._fill(body, receive, limit)
        except BaseException:
            body.release()
            raise
        return body

    async def _fill(self, body: Body, receive: Receive, limit: int) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            deadline = min(clock(), began + body.size / self._pace.rate) + self._pace.body
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Refusal(_too_slow()) from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece = message.get("body", b"")
            if body.size + len(piece) > limit:
                raise Refusal(_too_large(limit))
            if self.held + len(piece) > self._most:
                raise Refusal(_too_much())
            self.held += len(piece)
            body.add(piece)
            if not message.get("more_body", False):
                return


class Body:
    """A body that was read. Its share of the common bound is given back by ``release``."""

    def __init__(self, owner: Bodies) -> None:
        self._owner = owner
        self._data = bytearray()
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Append what came."""
        self._data += piece
        self.size += len(piece)

    def take(self) -> bytes:
        """The bytes, which are not kept here any longer; what was made of them counts on."""
        data, self._data = bytes(self._data), bytearray()
        return data

    def release(self) -> None:
        """Give the share back; may be called again."""
        self._owner.held -= self.size
        self.size = 0


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        "too-large",
        f"the body has more than {limit} bytes",
        "Send less; the source alone may have 4 MiB, a whole job what --body-limit says.",
    )


def _too_slow() -> Problem:
    return Problem(408, "slow-request", "the body comes too slowly", "Send it without pauses.")


def _too_much() -> Problem:
    return Problem(429, "busy", "other requests hold all room for bodies", "Try again later.", 2.0)
