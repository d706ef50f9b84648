"""Agent's ends of the pipes to a program's standard streams."""

from __future__ import annotations

import fcntl
import os
import select
from collections import deque

from slipway_agent.loop import READABLE, WRITABLE
from slipway_protocol.flow import ReceiveWindow, SendWindow
from slipway_protocol.schema import MAX_DATA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from slipway_agent.loop import Loop
    from slipway_protocol.messages import Stream

    class Writer(Protocol):
        """Writer to a program's stdin."""

        fd: int

        def write(self, data: bytes) -> int:
            """Write a part of ``data``; return the number of bytes.

            Raises:
                OSError: the program has to read first, or has closed its stdin.
            """

        def write_end(self) -> None:
            """Write end of file, before ``fd`` is closed.

            Raises:
                OSError: the program has to read first, or has closed its stdin.
            """


# So large that one wake-up of the agent moves many writes of the program.
PIPE_SIZE = 1024 * 1024
INPUT_WINDOW = 64 * 1024
# Bytes kept of the end of a stream. A runtime may print all its threads after the reason.
TAIL = 16 * 1024


def make_pipe(owner: int | None) -> tuple[int, int]:
    """Return the read and write end of a close-on-exec pipe, as large as the kernel allows.

    ``owner`` may open the pipe by a name such as /dev/stdin; with None only the agent's user may.
    Both ends are one inode: as on any Linux, a program can read its own output back and write to
    its own stdin. The agent does not depend on the program's ends: its own ends never block, and
    no phase ends by end of file.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if owner is not None:
        os.fchown(writer, owner, owner)
    widen_pipe(writer)
    return reader, writer


def widen_pipe(fd: int) -> None:
    """Make a pipe as large as the kernel allows."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except PermissionError:
        pass  # the user's share of pipe buffers is used up; the default size works, more slowly


class OutputPipe:
    """Reader of an output stream of a program, within the host's credit.

    Bytes above ``limit`` (0: no limit) are dropped and counted, and need no credit.
    """

    def __init__(self, loop: Loop, fd: int, stream: Stream, window: SendWindow, limit: int) -> None:
        os.set_blocking(fd, False)
        self.stream = stream
        self.sent = 0
        self.dropped = 0
        self.ended = False
        self.keeps_tail = False
        self.tail = b""
        self._loop = loop
        self._fd = fd
        self._window = window
        self._limit = limit
        self._watched = False
        self._paused = False
        self._writers_gone = False
        self.on_data: Callable[[Stream, bytes], None]
        self.on_excess: Callable[[], None]
        self.on_end: Callable[[OutputPipe], None]

    def update_watch(self) -> None:
        """Watch the pipe exactly while its bytes may be sent or dropped.

        A pipe without writers reports its end at each turn of the loop; therefore a pipe that has
        to wait is not watched at all.
        """
        if self._writers_gone:
            self._drain_pipe()
        elif self._is_readable != self._watched:
            self._watched = not self._watched
            if self._watched:
                self._loop.watch(self._fd, READABLE, self._handle_ready)
            else:
                self._loop.forget(self._fd)

    def set_paused(self, paused: bool) -> None:
        """Pause or resume reading: the queue to the host is long, or short again."""
        if paused != self._paused:
            self._paused = paused
            self.update_watch()

    def read_rest(self) -> None:
        """Read up to where the pipe is empty. Call this when all its writers are gone."""
        self._writers_gone = True
        self._loop.forget(self._fd)
        self._drain_pipe()

    def close(self) -> None:
        """Close the pipe, with the bytes in it."""
        if not self.ended:
            self.ended = True
            self._loop.forget(self._fd)
            os.close(self._fd)

    @property
    def _is_full(self) -> bool:
        return bool(self._limit) and self.sent >= self._limit

    @property
    def _is_readable(self) -> bool:
        """True while bytes may be sent, or dropped, which needs no credit."""
        return not self.ended and (
            self._is_full or (self._window.available > 0 and not self._paused)
        )

    def _handle_ready(self, _events: int) -> None:
        # A handler before this one may have paused the pipe.
        if self._is_readable:
            self._move_piece()
        self.update_watch()

    def _drain_pipe(self) -> None:
        while self._is_readable:
            if not self._move_piece():
                self._end_stream()
        # End of file needs no credit.
        if not self.ended and self._is_empty():
            self._end_stream()

    def _is_empty(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return not any(events & select.POLLIN for _, events in poll.poll(0))

    def _read_piece(self, size: int) -> bytes | None:
        """Read up to ``size`` bytes; return None if the pipe is empty now."""
        data = self._read_bytes(size)
        if data and self.keeps_tail:
            self.tail = (self.tail + data)[-TAIL:] if len(data) < TAIL else data[-TAIL:]
        return data

    def _read_bytes(self, size: int) -> bytes | None:
        try:
            return os.read(self._fd, size)
        except BlockingIOError:
            return None

    def _move_piece(self) -> bool:
        """Send or drop one piece; return False if the pipe is empty now."""
        if self._is_full:
            return self._drop_piece()
        size = min(self._window.available, MAX_DATA)
        if self._limit:
            size = min(size, self._limit - self.sent)
        data = self._read_piece(size)
        if data is None:
            return False
        if not data:
            self._end_stream()
            return True
        self._window.spend(len(data))
        self.sent += len(data)
        self.on_data(self.stream, data)
        return True

    def _drop_piece(self) -> bool:
        data = self._read_piece(PIPE_SIZE)
        if data is None:
            return False
        if not data:
            self._end_stream()
            return True
        first = not self.dropped
        self.dropped += len(data)
        if first:
            self.on_excess()
        return True

    def _end_stream(self) -> None:
        if not self.ended:
            self.close()
            self.on_end(self)


class PipeWriter:
    """Writer to a pipe, whose end of file is the close of its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, data: bytes) -> int:
        """Write a part of ``data``; return the number of bytes.

        Raises:
            OSError: the pipe is full or has no reader.
        """
        return os.write(self.fd, data)

    def write_end(self) -> None:
        """Do nothing."""


class InputPipe:
    """Queue for a program's stdin; grants credit to the host as the program reads."""

    def __init__(self, loop: Loop, on_credit: Callable[[int], None]) -> None:
        self._loop = loop
        self._on_credit = on_credit
        self._window = ReceiveWindow(INPUT_WINDOW)
        self._queue: deque[bytes] = deque()
        self._writer: Writer | None = None
        self._watched = False
        self._finished = False

    def attach(self, writer: Writer) -> None:
        """Write by ``writer`` from now on, and close its descriptor at the end."""
        os.set_blocking(writer.fd, False)
        self._writer = writer
        self._write_pending(0)

    def detach(self) -> None:
        """Close the writer: the program is gone."""
        if self._writer is not None:
            self._loop.forget(self._writer.fd)
            os.close(self._writer.fd)
            self._writer = None
            self._watched = False

    def receive(self, data: bytes) -> None:
        """Queue bytes of the host.

        Raises:
            ProtocolError: the host has sent more than its credit.
        """
        self._window.count_received(len(data))
        if self._finished:
            return
        self._queue.append(data)
        if not self._watched:
            self._write_pending(0)

    def finish(self) -> None:
        """Mark the end of stdin, after the bytes in the queue."""
        self._finished = True
        if not self._watched:
            self._write_pending(0)

    def _write_pending(self, _events: int) -> None:
        writer = self._writer
        if writer is None:
            return
        wanted = False
        try:
            self._write_queue(writer)
            if self._finished:
                writer.write_end()
        except BlockingIOError:
            wanted = True
        except BrokenPipeError:
            # The program has closed its stdin: the rest is dropped.
            self._finished = True
            self._queue.clear()
        if wanted != self._watched:
            self._watched = wanted
            if wanted:
                self._loop.watch(writer.fd, WRITABLE, self._write_pending)
            else:
                self._loop.forget(writer.fd)
        if self._finished and not wanted:
            self.detach()

    def _write_queue(self, writer: Writer) -> None:
        """Write the queue and grant credit.

        Raises:
            OSError: the rest of the queue cannot be written now.
        """
        while self._queue:
            data = self._queue[0]
            written = writer.write(data)
            if written == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = data[written:]
            credit = self._window.count_consumed(written)
            if credit:
                self._on_credit(credit)
