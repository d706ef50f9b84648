"""Limits of Unix sockets, and waiting for them on the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

# Bytes of a socket's path; with its NUL it fills ``sun_path`` (unix(7)).
MAX_SOCKET_PATH = 107


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
