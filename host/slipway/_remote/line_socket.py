"""Unix socket for lines of JSON in both directions, read only on demand."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, suppress

from slipway._remote.run_stream import LineSplitter
from slipway._util.unix_sockets import connect_unix, wait_writable

READ_SIZE = 256 * 1024


class LineSocket:
    """Connection whose two directions fail independently.

    Streams of asyncio would not do: they read ahead, and lose all data that they have read when a
    write fails.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._lines = LineSplitter()
        self._unsent = bytearray()
        self._sending = asyncio.Lock()
        # Reads and writes under way: the descriptor stays open until they have returned.
        self._users = 0
        self._closed = False

    @classmethod
    async def connect(cls, path: str) -> LineSocket:
        """Connect to the socket at ``path``.

        Raises:
            OSError: the connection was refused.
        """
        with ExitStack() as stack:
            connected = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connected.setblocking(False)
            await connect_unix(connected, path)
            stack.pop_all()
        return cls(connected)

    async def read_line(self) -> bytes | None:
        """Return the next complete line, with its end; None at the end of the connection.

        May be cancelled without loss.

        Raises:
            UnknownOutcome: a line is too long.
        """
        while (line := self._lines.take_line()) is None:
            data = await self._receive()
            if not data:
                return None
            self._lines.feed(data)
        return line

    async def write(self, line: bytes) -> None:
        """Send ``line``; the next call sends the rest of a cancelled one.

        Raises:
            OSError: the other side is closed.
        """
        async with self._sending:
            self._unsent += line
            self._users += 1
            try:
                while self._unsent and not self._closed:
                    await self._send()
            finally:
                self._release()

    def close(self) -> None:
        """Close the connection; reads and writes under way return."""
        self._closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if not self._users:
            self._socket.close()

    async def _receive(self) -> bytes:
        if self._closed:
            return b""
        self._users += 1
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, READ_SIZE)
        except OSError:
            return b""
        finally:
            self._release()

    async def _send(self) -> None:
        try:
            # A slice, because the kernel takes at most as much as fits into its buffer.
            sent = self._socket.send(memoryview(self._unsent)[:READ_SIZE])
        except (BlockingIOError, InterruptedError):
            await wait_writable(self._socket)
        else:
            del self._unsent[:sent]

    def _release(self) -> None:
        self._users -= 1
        if self._closed and not self._users:
            self._socket.close()
