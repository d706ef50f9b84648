"""Host's end of the protocol over asyncio streams."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway_protocol.connection import Connection, Violation
from slipway_protocol.framing import END, BadFrame

if TYPE_CHECKING:
    from slipway_protocol.connection import Event
    from slipway_protocol.messages import HostMessage

# Large enough that a full virtqueue of frames costs one wake-up.
READ_SIZE = 256 * 1024
# A read with more frames than that is decoded in slices, which take at most as many milliseconds as
# a read of large frames. Each frame has an END on either side.
MAX_FRAMES = 256
SLICE = 512
# Events between two turns of all other tasks: a peer that sends without end must not keep them
# waiting.
TURN = 128


class Channel:
    """Exchange of messages with an agent over any ordered byte stream.

    The channel owns ``writer`` and closes it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = Connection.host()
        self._events: deque[Event] = deque()
        # The last read, how much of it has been decoded, and how much is decoded at once.
        self._data = b""
        self._decoded = 0
        self._slice = 0
        self._taken = 0

    def pack_messages(self) -> None:
        """Send messages as Packed from now on, where that is shorter."""
        self._connection.packs = True

    @property
    def bad_frames(self) -> int:
        """Number of frames dropped up to now."""
        return self._connection.bad_frames

    async def send(self, message: HostMessage) -> None:
        """Send ``message``, and wait while the peer does not read.

        Raises:
            OSError: the stream is broken.
            ProtocolError: the message does not fit into a frame.
        """
        self._writer.write(self._connection.send(message))
        await self._writer.drain()

    def post(self, *messages: HostMessage) -> None:
        """Send ``messages`` in one write, without waiting; something else bounds their bytes.

        Raises:
            ProtocolError: a message does not fit into a frame; none is sent.
        """
        self._writer.write(b"".join(self._connection.send(message) for message in messages))

    async def receive(self) -> Event | None:
        """Return the next event, or None at the end of the stream, clean or broken."""
        if not await self._wait_event():
            return None
        return self._events.popleft()

    async def wait_message(self) -> bool:
        """Wait until :meth:`receive` has a message, and drop what comes before; False at the end.

        May be cancelled: no byte is lost.
        """
        while await self._wait_event():
            if not isinstance(self._events[0], BadFrame | Violation):
                return True
            self._events.popleft()
        return False

    async def _wait_event(self) -> bool:
        """Wait until there is an event; False at the end. May be cancelled: no byte is lost."""
        self._taken += 1
        if self._taken >= TURN:
            self._taken = 0
            await asyncio.sleep(0)
        while not self._events:
            if self._decoded >= len(self._data):
                data = await self._read_piece()
                if not data:
                    return False
                self._data, self._decoded = data, 0
                self._slice = len(data) if data.count(END) <= 2 * MAX_FRAMES else SLICE
            piece = self._data[self._decoded : self._decoded + self._slice]
            self._decoded += len(piece)
            if self._decoded == len(self._data):
                self._data, self._decoded = b"", 0  # an idle channel holds nothing
            self._events.extend(self._connection.receive(piece))
        return True

    async def _read_piece(self) -> bytes:
        try:
            return await self._reader.read(READ_SIZE)
        except OSError:
            # A StreamReader with an error does not return the bytes in its buffer. They are the
            # last messages of a machine that died, and must be read.
            self._reader.set_exception(None)  # type: ignore[arg-type]
            self._reader.feed_eof()
            return await self._reader.read(READ_SIZE)

    async def close(self) -> None:
        """Close the stream after the messages that were sent before."""
        self._writer.close()
        with suppress(OSError):  # the machine may have ended first
            await self._writer.wait_closed()
