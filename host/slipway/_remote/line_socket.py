"""Unix socket for lines of JSON in both directions, read on request only."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress

from slipway._util.unix_sockets import wait_writable
from slipway._wire.errors import make_protocol_error
from slipway._wire.fields import MAX_LINE

READ_SIZE = 256 * 1024


class LineSocket:
    """Connection whose directions are independent: one works after the other has failed.

    Streams of asyncio read ahead, and lose the input that they have read when writing fails.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._lines: deque[bytes] = deque()
        self._tail = bytearray()
        self._unsent = bytearray()
        self._sending = asyncio.Lock()
        self._users = 0
        self._closed = False

    @classmethod
    async def connect(cls, path: str) -> LineSocket:
        """Connect to the socket at ``path``.

        Raises:
            OSError: the connection failed.
        """
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connected, path)
        except BaseException:
            connected.close()
            raise
        return cls(connected)

    async def read_line(self) -> bytes | None:
        """Return the next whole line with its newline, or None at the end of the connection.

        Cancellation loses nothing.

        Raises:
            UnknownOutcome: a line is longer than MAX_LINE.
        """
        while not self._lines:
            data = await self._receive()
            if not data:
                return None
            self._split(data)
        return self._lines.popleft()

    async def write(self, line: bytes) -> None:
        """Send ``line``. After a cancellation, the next call sends the rest of the line first.

        Raises:
            OSError: the peer has closed the connection.
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
        """Close the connection; pending reads and writes end."""
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

    def _split(self, data: bytes) -> None:
        first, *rest = data.split(b"\n")
        self._tail += first
        if rest:
            self._lines.append(bytes(self._tail) + b"\n")
            self._lines.extend(line + b"\n" for line in rest[:-1])
            self._tail = bytearray(rest[-1])
        if len(self._tail) >= MAX_LINE:
            raise make_protocol_error(f"a line has more than {MAX_LINE} bytes")

    async def _send(self) -> None:
        try:
            # A slice: the kernel takes at most the free part of its buffer at once.
            sent = self._socket.send(memoryview(self._unsent)[:READ_SIZE])
        except (BlockingIOError, InterruptedError):
            await wait_writable(self._socket)
        else:
            del self._unsent[:sent]

    def _release(self) -> None:
        self._users -= 1
        if self._closed and not self._users:
            self._socket.close()
