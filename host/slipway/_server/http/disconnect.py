"""Whether a client is still there while it waits for its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from slipway._server.http.request_bodies import ClientGone

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from starlette.types import Receive

_T = TypeVar("_T")


async def client_left(receive: Receive) -> None:
    """Wait until the client has closed its connection; its body has to be read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def attended(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """What ``work`` returns or raises; it is cancelled when the client leaves, and waited for.

    Raises:
        ClientGone: the client has left.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(client_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
