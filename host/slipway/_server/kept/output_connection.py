"""One client's connection to an output socket."""

from __future__ import annotations

import array
import asyncio
import fcntl
import logging
import select
import socket
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipway._server.kept.commands import Commands
    from slipway._server.kept.output_log import OutputLog

log = logging.getLogger("slipway.api")

# The kernel takes twice this (socket(7)), and a piece more than that: well below the log's BEHIND,
# so that what a client has not read is still kept, whenever it leaves.
SEND_BUFFER = 256 * 1024
_SENT_AT_ONCE = 256 * 1024
# A few milliseconds' work, whatever lines it has.
_RECEIVED_AT_ONCE = 16 * 1024
# Seconds between two looks at whether a half-closed client has read all. No event tells.
_LOOK_AGAIN = 0.02


class OutputConnection:
    """Writes ``log`` from ``offset`` on to ``peer``, and gives what it sends to ``commands``.

    A client that has shut down its own sending (``nc -N``) still gets everything.
    """

    def __init__(
        self, peer: socket.socket, output: OutputLog, offset: int, commands: Commands | None
    ) -> None:
        peer.setblocking(False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._output = output
        self._offset = offset
        self._commands = commands
        self._reset = False
        self._stopped = False
        self._hung_up = asyncio.Event()
        self._poll = select.epoll(1)
        # No events but those that are always told: POLLHUP and POLLERR. The loop itself can watch a
        # socket only together with its input, which is always there once the peer has half closed.
        self._poll.register(peer, 0)
        self._loop.add_reader(self._poll, self._hang_up)
        self._tasks: list[asyncio.Task[Any]] = []

    async def serve(self) -> bool:
        """Write until the stream's end has been read or the client is gone.

        Returns:
            Whether the client has read the whole stream, to its end.
        """
        receiving = self._loop.create_task(self._receive())
        sending = self._loop.create_task(self._send())
        leaving = self._loop.create_task(self._hung_up.wait())
        self._tasks += receiving, sending, leaving
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and sending.result():
            await self._until_read()
        sending.cancel()
        return self._is_read()

    async def finish(self) -> None:
        """Carry out what a client had sent before it left."""
        await self._tasks[0]

    async def stop(self) -> None:
        """Do nothing more for this client."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut_off(self) -> None:
        """Write nothing more, from this moment on."""
        self._stopped = True

    def close(self) -> None:
        """Close the connection. What the client has not read by now it still can."""
        self._loop.remove_reader(self._poll)
        self._poll.close()
        self._peer.close()

    def _hang_up(self) -> None:
        self._loop.remove_reader(self._poll)
        self._hung_up.set()

    async def _send(self) -> bool:
        """Write all that there is and comes; return False where the client is gone."""
        output = self._output
        while not self._stopped:
            parts = output.read(self._offset, _SENT_AT_ONCE)
            if not parts:
                if output.closed:
                    return True
                await output.wait(self._offset)
                continue
            try:
                sent = self._peer.sendmsg(parts)
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                self._note(error)
                return False
            else:
                self._offset += sent
                output.take(self._offset)
        return False

    async def _writable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_writer(self._peer, _wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_writer(self._peer)

    async def _receive(self) -> None:
        try:
            while data := await self._loop.sock_recv(self._peer, _RECEIVED_AT_ONCE):
                # A raw stream has no use for it, but a client that cannot write may never read.
                if self._commands is not None:
                    await self._commands.feed(data)
                # Where there is always more, nothing above has waited.
                await asyncio.sleep(0)
            if self._commands is not None:
                await self._commands.end()
        except OSError as error:
            self._note(error)
        except Exception:
            log.exception("commands of a client ended by a bug")

    def _note(self, error: OSError) -> None:
        """Remember what the kernel tells only once."""
        self._reset = self._reset or isinstance(error, ConnectionResetError)

    async def _until_read(self) -> None:
        """Say that the stream is over, and wait until the client has closed or read all of it."""
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_WR)
        # From now on this may also mean that the client has shut down its sending: both directions
        # are shut down then, which is all that unix_poll() in net/unix/af_unix.c looks at.
        await self._hung_up.wait()
        while not self._reset and self._unread():
            await asyncio.sleep(_LOOK_AGAIN)
            self._look_for_reset()

    def _is_read(self) -> bool:
        whole = self._output.closed and self._offset == self._output.end
        # In this order: a peer that closes with bytes unread first leaves the error behind
        # (unix_release_sock() in net/unix/af_unix.c), and then drops them.
        if not whole or self._unread():
            return False
        self._look_for_reset()
        return not self._reset

    def _unread(self) -> int:
        """Memory of what the client has not read (SIOCOUTQ, unix(7)); 0: it has read everything."""
        memory = array.array("i", [0])
        fcntl.ioctl(self._peer, termios.TIOCOUTQ, memory)
        return memory[0]

    def _look_for_reset(self) -> None:
        if self._peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._reset = True


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
