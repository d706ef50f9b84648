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
from typing import TYPE_CHECKING, Protocol

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


class ConnectionOwner(Protocol):
    """Owner of connections. No method may wait."""

    def on_served(self, connection: OutputConnection, *, delivered: bool) -> None:
        """Note that the client has left; ``delivered`` if all of the stream has been read.

        Its last commands may still be carried out.
        """

    def on_closed(self, connection: OutputConnection) -> None:
        """Note that the connection has ended and is closed."""


class OutputConnection:
    """Writer of ``output`` from ``offset`` on to ``peer``, and reader of its commands.

    A client that has shut down its sending (``nc -N``) still gets everything. Commands on a raw
    stream, where ``commands`` is None, are dropped.

    All work is done in callbacks of the event loop, except for commands: those have a task, from
    the first byte that the client sends. Most clients send none.
    """

    def __init__(
        self,
        peer: socket.socket,
        output: OutputLog,
        offset: int,
        commands: CommandReader | None,
        owner: ConnectionOwner,
    ) -> None:
        peer.setblocking(False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._output = output
        self._offset = offset
        self._commands = commands
        self._owner = owner
        # The whole stream has been written, or the client is gone.
        self._is_written = False
        self._is_served = False
        self._is_input_over = False
        self._is_closed = False
        self._reset = False
        self._carrying_out: asyncio.Task[None] | None = None
        self._check: asyncio.TimerHandle | None = None
        # Only the events that are always reported: POLLHUP and POLLERR. The event loop can watch a
        # socket only together with its input, which is always ready after the peer has half closed.
        self._poll = select.epoll(1)
        try:
            self._poll.register(peer, 0)
            self._loop.add_reader(peer, self._receive)
            self._loop.add_reader(self._poll, self._on_hang_up)
        except OSError:  # the kernel bounds the watches of a user, and its memory
            self._loop.remove_reader(peer)
            self._poll.close()
            raise

    def begin(self) -> None:
        """Write until the stream's end has been read or the client is gone, then close."""
        self._output.watch(self._send)
        self._send()

    def stop(self) -> None:
        """Stop all work for this client at once, cancel its command, and close.

        The owner gets no :meth:`ConnectionOwner.on_served` any more. May be called again.
        """
        self._is_served = True
        self._stop_writing()
        if self._carrying_out is None or self._is_input_over:
            self._close()
        elif not self._carrying_out.cancelling():  # a second time would interrupt its clean-up
            self._carrying_out.cancel()

    async def wait_closed(self) -> None:
        """Wait until a cancelled command has ended, after :meth:`stop`."""
        if self._carrying_out is not None:
            await asyncio.wait([self._carrying_out])

    # --- Output -----------------------------------------------------------------------------

    def _send(self) -> None:
        """Write all that the stream has, as far as the client reads."""
        try:
            while not self._is_written:
                parts = self._output.read(self._offset, _SENT_AT_ONCE)
                if not parts:
                    if self._output.closed:
                        self._end_stream()
                    return
                self._offset += self._peer.sendmsg(parts)
                self._output.take(self._offset)
        except BlockingIOError:
            # Until then the stream's growth changes nothing.
            self._output.unwatch(self._send)
            self._loop.add_writer(self._peer, self._on_writable)
        except OSError as error:
            self._note_error(error)
            self._end_serving()
        except Exception:
            log.exception("bug in writing to a client")
            self._end_serving()

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._peer)
        self._output.watch(self._send)
        self._send()

    def _end_stream(self) -> None:
        """Send the end of the stream, and wait until the client has closed or has read all."""
        self._stop_writing()
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_WR)
        # From now on a hang-up may also mean that the client has shut down its sending: then both
        # directions are shut down, which is the test in unix_poll() in net/unix/af_unix.c.

    def _on_hang_up(self) -> None:
        self._loop.remove_reader(self._poll)
        if self._is_written:
            self._check_unread()
        else:
            self._end_serving()

    def _check_unread(self) -> None:
        """End the service if a client that has hung up has read all; else look again soon."""
        self._check = None
        if self._is_served:
            return
        if not self._reset and self._count_unread():
            self._check = self._loop.call_later(_CHECK_SECONDS, self._check_unread)
            self._check_reset()
        else:
            self._end_serving()

    def _end_serving(self) -> None:
        """Report that the client has left, and close after its last commands."""
        self._stop_writing()
        if self._is_served:
            return
        self._is_served = True
        self._owner.on_served(self, delivered=self._is_read())
        if self._is_input_over:
            self._close()

    def _stop_writing(self) -> None:
        self._is_written = True
        self._output.unwatch(self._send)
        if not self._is_closed:
            self._loop.remove_writer(self._peer)

    def _close(self) -> None:
        """Close the connection. The client can still read bytes that the kernel holds."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._check is not None:
            self._check.cancel()
        self._loop.remove_reader(self._peer)
        self._loop.remove_reader(self._poll)
        self._poll.close()
        self._peer.close()
        self._owner.on_closed(self)

    # --- Commands ---------------------------------------------------------------------------

    def _receive(self) -> None:
        """Take the first input of a client, or the end; drop all input of a raw stream.

        Input of a raw stream is read too: a client that cannot write may never read.
        """
        data = b""
        try:
            data = self._peer.recv(_RECEIVED_AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            self._note_error(error)
        if data and self._commands is None:
            return
        self._loop.remove_reader(self._peer)
        if data:
            assert self._commands is not None
            self._carrying_out = self._loop.create_task(self._carry_out(self._commands, data))
            self._carrying_out.add_done_callback(self._on_carried_out)
        else:
            self._end_input()

    async def _carry_out(self, commands: CommandReader, data: bytes) -> None:
        """Carry out commands, of which ``data`` came first, to the end of the input."""
        try:
            while data:
                await commands.feed(data)
                # With input always ready, nothing above has waited: let other tasks run.
                await asyncio.sleep(0)
                data = await self._loop.sock_recv(self._peer, _RECEIVED_AT_ONCE)
            await commands.end()
        except OSError as error:
            self._note_error(error)
        except Exception:
            log.exception("bug in a client's commands")

    def _on_carried_out(self, _task: asyncio.Task[None]) -> None:
        self._end_input()

    def _end_input(self) -> None:
        """Close, if the output needs no connection any more."""
        self._is_input_over = True
        if self._is_served:
            self._close()

    # --- The kernel's state of the connection -------------------------------------------------

    def _note_error(self, error: OSError) -> None:
        """Remember a reset, which the kernel reports only once."""
        self._reset = self._reset or isinstance(error, ConnectionResetError)

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
