"""The socket of one run, through which its output goes to whoever connects."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from slipway._model.errors import Busy, HostError
from slipway._server.kept.output_connection import OutputConnection

if TYPE_CHECKING:
    from pathlib import Path

    from slipway._server.kept.commands import Commands
    from slipway._server.kept.output_log import OutputLog
    from slipway._server.socket_access import Access

log = logging.getLogger("slipway.api")

NAME = "output"
"""What the socket is called in its directory."""

# One client at a time; who waits behind it is soon the newest.
_BACKLOG = 16
# Seconds for which nobody is let in where descriptors have run out.
_PAUSE = 0.5
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Keeper(Protocol):
    """Whose output it is. No method may wait."""

    def admits(self, peer: socket.socket) -> bool:
        """Whether the process at the other end may have the output."""
        ...

    def arrived(self) -> None:
        """A client is there now, perhaps instead of another."""

    def left(self, *, delivered: bool) -> None:
        """The client has left; ``delivered``: it had read the stream to its end."""

    def commands(self) -> Commands | None:
        """Who takes what a new client sends; None: nobody."""


class OutputSocket:
    """``directory``/output: gives ``output`` to one client at a time, the newest.

    A client begins at the oldest byte kept, or where :meth:`resume` said.
    """

    def __init__(self, directory: Path, access: Access, output: OutputLog, keeper: Keeper) -> None:
        self.path = directory / NAME
        self._access = access
        self._output = output
        self._keeper = keeper
        self._next: int | None = None
        self._loop = asyncio.get_running_loop()
        self._current: OutputConnection | None = None
        self._attending: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._listener: socket.socket
        self._open = False

    @property
    def connected(self) -> bool:
        """Whether a client is there."""
        return self._current is not None

    def open(self) -> None:
        """Make the directory and the socket in it, and let clients in.

        Raises:
            Busy: this process has no descriptors left.
            HostError: the disk has no room, or the directory of all runs is gone.
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
                raise Busy(
                    "this server has no room for another socket", "Try again soon."
                ) from None
            raise HostError(f"no output socket can be made at {self.path}: {error}") from None
        self._open = True
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def resume(self, offset: int) -> None:
        """Have the next client begin at ``offset``, which has to be kept.

        The one who is there is cut off: the window must not move on before the next one comes.
        """
        self._cut_off()
        self._next = offset

    async def close(self) -> None:
        """Let nobody in any more, cut off who is there, and remove socket and directory."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._listener)
            if self._pause is not None:
                self._pause.cancel()
            self._listener.close()
            self._remove()
        self._current = None
        self._stop_attending()
        if self._attending:
            await asyncio.wait(self._attending)

    def _bind(self) -> None:
        directory = self.path.parent
        directory.mkdir(0o700)
        try:
            directory.chmod(self._access.directory_mode)
            self._listener.bind(str(self.path))
            self._access.apply(self.path)
            self._listener.listen(_BACKLOG)  # until now nobody could connect
        except OSError:
            self._remove()
            raise

    def _remove(self) -> None:
        with suppress(OSError):  # gone, or somebody has put something there: not ours to delete
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # it has gone before we came
            return
        except OSError as error:
            log.warning("no client can be let in at %s: %s", self.path, error)
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(
                _PAUSE, self._loop.add_reader, self._listener, self._accept
            )
            return
        try:
            if not self._keeper.admits(peer):
                peer.close()
                return
            offset = self._output.start if self._next is None else self._next
            connection = OutputConnection(peer, self._output, offset, self._keeper.commands())
        except OSError as error:
            log.warning("a client cannot be served at %s: %s", self.path, error)
            peer.close()
            return
        self._next = None
        self._stop_attending()
        self._current = connection
        self._keeper.arrived()
        task = self._loop.create_task(self._attend(connection))
        self._attending.add(task)
        task.add_done_callback(self._attending.discard)
        # Whatever becomes of the task: one that is cancelled before its first step has no steps.
        task.add_done_callback(lambda _: connection.close())

    def _cut_off(self) -> None:
        self._stop_attending()
        if self._current is not None:
            self._current.cut_off()
            self._current = None
            self._keeper.left(delivered=False)

    def _stop_attending(self) -> None:
        for task in self._attending:
            if not task.cancelling():  # a second time would break off its tidying
                task.cancel()

    async def _attend(self, connection: OutputConnection) -> None:
        try:
            delivered = await connection.serve()
            if self._current is connection:
                self._current = None
                self._keeper.left(delivered=delivered)
            await connection.finish()
        finally:
            if self._current is connection:  # it ended by a bug
                self._current = None
                self._keeper.left(delivered=False)
            await connection.stop()
