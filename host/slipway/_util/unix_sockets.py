"""Unix sockets on the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slipway._util.socket_limits import CONNECT_PAUSE

if TYPE_CHECKING:
    import socket


async def connect_unix(connecting: socket.socket, path: str) -> None:
    """Connect a non-blocking socket; waits while the queue of the listener is full.

    The event loop's own ``sock_connect()`` mistakes a full queue (EAGAIN, connect(2)) for a
    connection.

    Raises:
        OSError: no listener, or no access.
    """
    while True:
        try:
            connecting.connect(path)
        except BlockingIOError:
            await asyncio.sleep(CONNECT_PAUSE)
        else:
            return


async def wait_writable(connected: socket.socket) -> None:
    """Wait until a non-blocking socket takes more bytes, or has an error.

    At most one task at a time may wait for a socket.
    """
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(connected, _set_ready, ready)
    try:
        await ready
    finally:
        loop.remove_writer(connected)


def _set_ready(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
