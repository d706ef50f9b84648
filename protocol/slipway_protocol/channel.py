"""The host's end over asyncio streams."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway_protocol.connection import Connection

if TYPE_CHECKING:
    import asyncio

    from slipway_protocol.connection import Event
    from slipway_protocol.messages import HostMessage

# Large enough that a full virtqueue of frames costs one wake-up.
READ_SIZE = 256 * 1024


class Channel:
    """Sends messages to an agent and receives its events, over any ordered byte stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = Connection.host()
        self._events: deque[Event] = deque()

    @property
    def bad_frames(self) -> int:
        """Frames dropped so far."""
        return self._connection.bad_frames

    async def send(self, message: HostMessage) -> None:
        """Send ``message``; waits while the peer does not read.

        Raises:
            OSError: the stream is broken.
            ProtocolError: the message is longer than a frame may be.
        """
        self._writer.write(self._connection.send(message))
        await self._writer.drain()

    async def receive(self) -> Event | None:
        """The next event, or None at the end of the stream, however it ended."""
        while not self._events:
            data = await self._read()
            if not data:
                return None
            self._events.extend(self._connection.receive(data))
        return self._events.popleft()

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(READ_SIZE)
        except OSError:
            # A stream reader hides what it has buffered behind the error of a broken stream; the
            # last words of a machine that died must not be lost with it.
            self._reader.set_exception(None)  # type: ignore[arg-type]
            self._reader.feed_eof()
            return await self._reader.read(READ_SIZE)

    async def close(self) -> None:
        """Close the stream; what was sent before still goes out."""
        self._writer.close()
        with suppress(OSError):  # the machine may have gone first
            await self._writer.wait_closed()
