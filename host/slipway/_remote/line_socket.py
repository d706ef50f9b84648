"""A Unix socket for lines of JSON in both directions, read only as they are asked for."""

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
    """A connection; each direction works whatever becomes of the other.

    Not asyncio's streams: those read ahead, and an error of writing loses them what they have read.
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
        """A connection to what listens at ``path``. Raises OSError."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connected, path)
        except BaseException:
            connected.close()
            raise
        return cls(connected)

    async def read_line(self) -> bytes | None:
        """The next whole line, with its end; None where the connection has ended.

        May be cancelled without loss.

        Raises:
            UnknownOutcome: a line is too long.
        """
        while not self._lines:
            data = await self._receive()
            if not data:
                return None
            self._split(data)
        return self._lines.popleft()

    async def write(self, line: bytes) -> None:
        """Send ``line``; where the caller is cancelled, the next one sends the rest.

        Raises:
            OSError: the other side takes no more.
        """
        async with self._sending:
            self._unsent += line
            self._users += 1
            try:
                while self._unsent and not self._closed:
                    await self._send()
            finally:
                self._left()

    def close(self) -> None:
        """Close; whoever waits in a read or write is woken."""
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
            self._left()

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
            # A slice: the kernel takes no more at once than its buffer has room for.
            sent = self._socket.send(memoryview(self._unsent)[:READ_SIZE])
        except (BlockingIOError, InterruptedError):
            await wait_writable(self._socket)
        else:
            del self._unsent[:sent]

    def _left(self) -> None:
        self._users -= 1
        if self._closed and not self._users:
            self._socket.close()
