"""Socket of one run, which gives the run's output to clients."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from slipway._server.kept.output_connection import OutputConnection
from slipway._util.errors import Busy, HostError

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._server.kept.command_reader import CommandReader
    from slipway._server.kept.output_log import OutputLog
    from slipway._server.socket_access import SocketAccess

log = logging.getLogger("slipway.api")

# The name of the socket in its directory.
NAME = "output"

# Only one client is served at a time; a client in the backlog soon replaces it.
_BACKLOG = 16
# Seconds without accepting clients after descriptors have run out.
_PAUSE = 0.5
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class OutputOwner(Protocol):
    """Owner of the output, who decides on clients. No method may wait."""

    def may_read(self, connection: socket.socket) -> bool:
        """Tell if the process at the other end may read the output."""
        ...

    def on_connected(self) -> None:
        """Note that a client has connected, perhaps instead of another."""

    def on_disconnected(self, *, delivered: bool) -> None:
        """Note that the client has left; ``delivered`` if all of the stream has been read."""

    def create_command_reader(self) -> CommandReader | None:
        """Return the reader of a new client's commands; None to drop them."""


class OutputSocket:
    """Socket ``directory``/output, which gives ``output`` to one client at a time, the newest.

    A client begins at the oldest byte that is kept, or at the offset of :meth:`resume`.
    """

    def __init__(
        self, directory: Path, access: SocketAccess, output: OutputLog, owner: OutputOwner
    ) -> None:
        self.path = directory / NAME
        self._access = access
        self._output = output
        self._owner = owner
        self._next: int | None = None
        self._loop = asyncio.get_running_loop()
        self._current: OutputConnection | None = None
        self._connections: set[OutputConnection] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._listener: socket.socket
        self._open = False

    @property
    def connected(self) -> bool:
        """True while a client is connected."""
        return self._current is not None

    def open(self) -> None:
        """Create the directory and the socket in it, and accept clients.

        Raises:
            Busy: this process has no descriptors left.
            HostError: the disk is full, or the directory of all runs is gone.
        """
        try:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._bind()
            except OSError:
                self._listener.close()
                raise
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise Busy("the server has no descriptors left", "Try again soon.") from None
            raise HostError(f"cannot create the output socket {self.path}: {error}") from None
        self._open = True
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def resume(self, offset: int) -> None:
        """Let the next client begin at ``offset``, which must be kept.

        The current client is cut off: the window must not move before the next client comes.
        """
        self._cut_off()
        self._next = offset

    async def close(self) -> None:
        """Stop accepting clients, cut off the current client, and remove socket and directory."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener)
            if self._pause is not None:
                self._pause.cancel()
            self._listener.close()
            self._remove()
        self._current = None
        connections = list(self._connections)
        self._stop_serving()
        for connection in connections:
            await connection.wait_closed()

    def on_served(self, connection: OutputConnection, *, delivered: bool) -> None:
        """Tell the owner that the client has left, unless a newer one has replaced it."""
        if self._current is connection:
            self._current = None
            self._owner.on_disconnected(delivered=delivered)

    def on_closed(self, connection: OutputConnection) -> None:
        """Forget ``connection``."""
        self._connections.discard(connection)

    def _bind(self) -> None:
        directory = self.path.parent
        directory.mkdir(0o700)
        try:
            directory.chmod(self._access.directory_mode)
            self._listener.bind(str(self.path))
            self._access.apply(self.path)
            self._listener.listen(_BACKLOG)  # from now on clients can connect
        except OSError:
            self._remove()
            raise

    def _remove(self) -> None:
        with suppress(
            OSError
        ):  # gone, or another program has put a file there, which is not ours to delete
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # the client has gone already
            return
        except OSError as error:
            log.warning("cannot accept clients at %s: %s", self.path, error)
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(
                _PAUSE, self._loop.add_reader, self._listener, self._accept
            )
            return
        try:
            if not self._owner.may_read(peer):
                peer.close()
                return
            offset = self._output.start if self._next is None else self._next
            connection = OutputConnection(
                peer, self._output, offset, self._owner.create_command_reader(), self
            )
        except OSError as error:
            log.warning("cannot serve a client at %s: %s", self.path, error)
            peer.close()
            return
        self._next = None
        self._stop_serving()
        self._current = connection
        self._owner.on_connected()
        self._connections.add(connection)
        connection.begin()

    def _cut_off(self) -> None:
        self._stop_serving()
        if self._current is not None:
            self._current = None
            self._owner.on_disconnected(delivered=False)

    def _stop_serving(self) -> None:
        for connection in list(self._connections):
            connection.stop()
