from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slipway._server.http.connection import Pace
from slipway._server.http.request_bodies import BodyReader, ClientGone
from slipway._server.problems import Refusal
from slipway._util.shares import Share
from slipway._util.units import MIB


class Sender:
    """ASGI messages of a client: each piece after a pause, in seconds."""

    def __init__(self, *pieces: bytes, pause: float = 0.0, leaves: bool = False) -> None:
        self._pieces = list(pieces)
        self._pause = pause
        self._leaves = leaves

    async def __call__(self) -> dict[str, Any]:
        await asyncio.sleep(self._pause)
        if not self._pieces:
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        more = bool(self._pieces) or self._leaves
        return {"type": "http.request", "body": piece, "more_body": more}


async def read_refusal(bodies: BodyReader, sender: Sender, length: str | None, limit: int) -> int:
    with pytest.raises(Refusal) as caught:
        await bodies.read(sender, length, limit, Share())
    return caught.value.problem.status


async def test_joins_the_pieces() -> None:
    bodies = BodyReader(Pace(), MIB)

    body = await bodies.read(Sender(b"ab", b"", b"c"), None, 3, Share())

    assert body.take() == b"abc"


async def test_counts_bytes_until_they_are_released() -> None:
    bodies = BodyReader(Pace(), MIB)

    body = await bodies.read(Sender(b"abc"), "3", 3, Share())
    body.take()
    held = bodies.holdings.total
    body.release()
    body.release()

    assert (held, bodies.holdings.total) == (3, 0)


async def test_body_with_a_too_large_length_is_not_read() -> None:
    sender = Sender(b"abcd")

    status = await read_refusal(BodyReader(Pace(), MIB), sender, "4", 3)

    assert status == 413
    assert (await sender())["body"] == b"abcd"


async def test_counts_a_body_that_does_not_say_its_length() -> None:
    bodies = BodyReader(Pace(), MIB)

    assert await read_refusal(bodies, Sender(b"ab", b"cd"), None, 3) == 413
    assert bodies.holdings.total == 0


async def test_all_bodies_together_are_bounded() -> None:
    bodies = BodyReader(Pace(), 5)
    first = await bodies.read(Sender(b"abc"), None, 5, Share())

    status = await read_refusal(bodies, Sender(b"a", b"bc"), None, 5)
    first.release()
    second = await bodies.read(Sender(b"abc"), None, 5, Share())

    assert status == 429
    assert bodies.holdings.total == second.size == 3


async def test_body_that_pauses_is_refused() -> None:
    bodies = BodyReader(Pace(body=0.01), MIB)

    assert await read_refusal(bodies, Sender(b"a", pause=3600), None, 5) == 408


async def test_slow_body_is_refused() -> None:
    bodies = BodyReader(Pace(body=0.1, rate=1000), MIB)

    status = await read_refusal(bodies, Sender(*[b"x"] * 10_000, pause=0.01), None, 10_000)

    assert status == 408
    assert bodies.holdings.total == 0


async def test_client_that_leaves_during_its_body_is_gone() -> None:
    bodies = BodyReader(Pace(), MIB)

    with pytest.raises(ClientGone):
        await bodies.read(Sender(b"a", leaves=True), None, 5, Share())

    assert bodies.holdings.total == 0
