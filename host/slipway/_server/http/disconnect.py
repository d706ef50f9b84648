"""Detection of clients that close the connection while they wait for a response."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from slipway._server.http.request_bodies import ClientGone

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from starlette.types import Receive

_T = TypeVar("_T")


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client has closed its connection. Read its body before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """Run ``work`` and return its result, or cancel it and wait for its end if the client leaves.

    Raises:
        ClientGone: the client has left.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(wait_for_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
