"""Connection of one client to an output socket."""

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

from slipway._util.unix_sockets import wait_writable

if TYPE_CHECKING:
    from slipway._server.kept.command_reader import CommandReader
    from slipway._server.kept.output_log import OutputLog

log = logging.getLogger("slipway.api")

# The kernel doubles this (socket(7)) and takes one piece more. All that is well below the log's
# BEHIND, so that bytes that a client has not read are still kept, whenever the client leaves.
SEND_BUFFER = 256 * 1024
_SENT_AT_ONCE = 256 * 1024
# Commands in this many bytes take a few milliseconds at most.
_RECEIVED_AT_ONCE = 16 * 1024
# Seconds between two checks that a half-closed client has read all: the kernel has no event for it.
_CHECK_SECONDS = 0.02


class OutputConnection:
    """Writer of ``output`` from ``offset`` on to ``peer``, and reader of its commands.

    A client that has shut down its sending (``nc -N``) still gets everything. Commands on a raw
    stream, where ``commands`` is None, are dropped.
    """

    def __init__(
        self, peer: socket.socket, output: OutputLog, offset: int, commands: CommandReader | None
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
        # Only the events that are always reported: POLLHUP and POLLERR. The event loop can watch a
        # socket only together with its input, which is always ready after the peer has half closed.
        self._poll.register(peer, 0)
        self._loop.add_reader(self._poll, self._on_hang_up)
        self._tasks: list[asyncio.Task[Any]] = []

    async def serve(self) -> bool:
        """Write until the stream's end has been read or the client is gone.

        Returns:
            True if the client has read the whole stream, to its end.
        """
        receiving = self._loop.create_task(self._receive())
        sending = self._loop.create_task(self._send())
        leaving = self._loop.create_task(self._hung_up.wait())
        self._tasks += receiving, sending, leaving
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and sending.result():
            await self._wait_read()
        sending.cancel()
        return self._is_read()

    async def finish(self) -> None:
        """Carry out the commands that a client has sent before it left."""
        await self._tasks[0]

    async def stop(self) -> None:
        """Stop all work for this client."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut_off(self) -> None:
        """Stop writing at once, before the next await."""
        self._stopped = True

    def close(self) -> None:
        """Close the connection. The client can still read bytes that the kernel holds."""
        self._loop.remove_reader(self._poll)
        self._poll.close()
        self._peer.close()

    def _on_hang_up(self) -> None:
        self._loop.remove_reader(self._poll)
        self._hung_up.set()

    async def _send(self) -> bool:
        """Write the whole stream; return False if the client is gone."""
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
                await wait_writable(self._peer)
            except OSError as error:
                self._note_error(error)
                return False
            else:
                self._offset += sent
                output.take(self._offset)
        return False

    async def _receive(self) -> None:
        try:
            while data := await self._loop.sock_recv(self._peer, _RECEIVED_AT_ONCE):
                # Input of a raw stream is read too: a client that cannot write may never read.
                if self._commands is not None:
                    await self._commands.feed(data)
                # With input always ready, nothing above has waited: let other tasks run.
                await asyncio.sleep(0)
            if self._commands is not None:
                await self._commands.end()
        except OSError as error:
            self._note_error(error)
        except Exception:
            log.exception("bug in a client's commands")

    def _note_error(self, error: OSError) -> None:
        """Remember a reset, which the kernel reports only once."""
        self._reset = self._reset or isinstance(error, ConnectionResetError)

    async def _wait_read(self) -> None:
        """Send the end of the stream, and wait until the client has closed or has read all."""
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_WR)
        # From now on a hang-up may also mean that the client has shut down its sending: then both
        # directions are shut down, which is the test in unix_poll() in net/unix/af_unix.c.
        await self._hung_up.wait()
        while not self._reset and self._count_unread():
            await asyncio.sleep(_CHECK_SECONDS)
            self._check_reset()

    def _is_read(self) -> bool:
        whole = self._output.closed and self._offset == self._output.end
        # The order matters: the kernel of a peer that closes with unread bytes first sets the error
        # (unix_release_sock() in net/unix/af_unix.c), and then drops the bytes.
        if not whole or self._count_unread():
            return False
        self._check_reset()
        return not self._reset

    def _count_unread(self) -> int:
        """Return the kernel's memory for unread bytes (SIOCOUTQ, unix(7)); 0 if all are read."""
        memory = array.array("i", [0])
        fcntl.ioctl(self._peer, termios.TIOCOUTQ, memory)
        return memory[0]

    def _check_reset(self) -> None:
        if self._peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._reset = True
