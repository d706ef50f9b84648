"""Splice: one connection of the guest, and the socket of the host that it is joined to."""

from __future__ import annotations

import _socket
import errno
import os
import struct
from contextlib import suppress

from slipway.machine.gateway.poller import EDGES, ENDED, READ, WRITE
from slipway.machine.gateway.report import LIMIT_REACHED
from slipway.machine.gateway.tcp_state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway.machine.gateway.destinations import Inspector
    from slipway.machine.gateway.poller import Poller
    from slipway.machine.gateway.report import Report
    from slipway.machine.gateway.tcp import TcpEnd

# Seconds for one address of a name; a server that is there answers sooner.
CONNECT_SECONDS = 10.0
_NEW = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger
_IPPROTO_TCP, _TCP_NODELAY = 6, 1
# Bytes of one recv: several segments of a guest whose MTU is small.
_PIECE = 64 << 10
# States in which the guest sends no more.
_FINISHED = (State.CLOSE_WAIT, State.LAST_ACK, State.CLOSING, State.TIME_WAIT, State.CLOSED)


def mark_for_reset(connected: _socket.socket) -> None:
    """Let the peer of a socket see a reset when the socket is closed."""
    with suppress(OSError):
        connected.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _RESET_AT_CLOSE)


class Splice:
    """End of the guest's connection, and a socket.

    The socket is watched by edges: the loop is never woken twice for bytes that the guest does not
    take. Whether it can be read or written is remembered here.
    """

    __slots__ = (
        *("_addresses", "_can_read", "_can_write", "_inspector", "_is_connected", "_is_shut"),
        *("_poller", "_report", "_socket", "_touch", "attempt_ends", "buffer_bytes", "end"),
        *("destination", "is_caller"),
    )

    def __init__(
        self, end: TcpEnd, poller: Poller, report: Report, touch: Callable[[Splice], None]
    ) -> None:
        """Take the end; ``touch`` is called with the splice when :meth:`move` should be."""
        self.end = end
        self._poller = poller
        self._report = report
        self._touch = touch
        self._socket: _socket.socket | None = None
        self._addresses: list[tuple[str, int]] = []
        self._inspector: Inspector | None = None
        self._is_connected = self._is_shut = False
        self._can_read = self._can_write = False
        # Time when the present attempt to connect is given up; 0 without.
        self.attempt_ends = 0.0
        # Bytes of each of the socket's buffers in the kernel, which doubles them for its own use;
        # 0: as many as the kernel chooses, up to some MiB (tcp(7), tcp_rmem and tcp_wmem).
        self.buffer_bytes = 0
        # True for a connection of the host to the guest.
        self.is_caller = False
        # Destination and port for the report.
        self.destination = "", 0

    @property
    def will_retry(self) -> bool:
        """True if an end that was refused is replaced by another."""
        return False

    def connect(
        self, addresses: list[tuple[str, int]], now: float, inspector: Inspector | None = None
    ) -> None:
        """Connect to the first of ``addresses`` that answers; the end waits, or is refused.

        Bytes of the guest pass once ``inspector`` has allowed them.
        """
        self._addresses = addresses
        self._inspector = inspector
        self.try_next_address(now)

    def try_next_address(self, now: float) -> None:
        """Begin to connect to the next address, or refuse the guest's connection without any."""
        self._drop_socket()
        self.attempt_ends = 0.0
        while self._addresses:
            address = self._addresses.pop(0)
            family = _socket.AF_INET6 if ":" in address[0] else _socket.AF_INET
            try:
                trying = _socket.socket(family, _NEW)
            except OSError:
                continue
            self._prepare(trying)
            if trying.connect_ex(address) in (0, errno.EINPROGRESS):
                self.attempt_ends = now + CONNECT_SECONDS
                self._watch(trying)
                return
            trying.close()
        self.end.refuse()
        self._touch(self)

    def adopt(self, connected: _socket.socket) -> None:
        """Take a connected socket, for an end that connects to the guest."""
        self._is_connected = self.is_caller = True
        self._prepare(connected)
        self._watch(connected)

    def _prepare(self, fresh: _socket.socket) -> None:
        if fresh.family != _socket.AF_UNIX:
            fresh.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
        if self.buffer_bytes:
            for buffer in (_socket.SO_RCVBUF, _socket.SO_SNDBUF):
                fresh.setsockopt(_socket.SOL_SOCKET, buffer, self.buffer_bytes)

    def _watch(self, watched: _socket.socket) -> None:
        self._socket = watched
        self._poller.add(watched.fileno(), READ | WRITE | EDGES, self._on_event)

    def _on_event(self, events: int) -> None:
        if events & (READ | ENDED):
            self._can_read = True
        if events & (WRITE | ENDED):
            self._can_write = True
        self._touch(self)

    def move(self, now: float, *, may_send: bool) -> None:
        """Move what can be moved between the end and the socket.

        Without ``may_send``, nothing is read for the guest. Segments for the guest are due after
        this: see :meth:`TcpEnd.next_segment`.
        """
        if not self._is_connected and not (self._can_write and self._finish_connecting(now)):
            return
        if self.end.is_half_open:
            return
        if self._can_write:
            self._write()
        if self._can_read and may_send:
            self._read()

    def _finish_connecting(self, now: float) -> bool:
        """Accept the guest's connection if the host's is there; return True then."""
        if self._socket is None:
            return False
        if self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
            self.try_next_address(now)
            return False
        self.attempt_ends = 0.0
        self._is_connected = True
        self._report.connections += 1
        self.end.accept()
        return True

    def _write(self) -> None:
        """Write bytes of the guest to the socket."""
        end = self.end
        if self._socket is None or (self._inspector is not None and not self._inspect()):
            return
        while self._can_write and (buffers := self._bound(end.peek())):
            try:
                sent = os.writev(self._socket.fileno(), buffers)
            except BlockingIOError:
                self._can_write = False
                return
            except OSError:
                self.fail()
                return
            end.consume(sent)
            self._report.bytes_from_guest += sent
        if end.is_at_end and not self._is_shut:
            self._is_shut = True
            try:
                self._socket.shutdown(_socket.SHUT_WR)
            except OSError:
                self.fail()

    def _bound(self, buffers: list[memoryview]) -> list[memoryview]:
        """Return the part of ``buffers`` that the limit of bytes lets pass."""
        if not self._report.limit:
            return buffers
        length = sum(map(len, buffers))
        passed = self._report.bound(length)
        if passed == length:
            return buffers
        return [memoryview(b"".join(buffers))[:passed]] if passed else []

    def _inspect(self) -> bool:
        """Return True if the first bytes of the guest may pass; a refusal resets both sides."""
        assert self._inspector is not None
        sent = b"".join(self.end.peek())
        verdict = self._inspector(sent)
        if verdict is None and self.end.state in _FINISHED:
            verdict = not sent  # a hello that stays incomplete
        if verdict:
            self._inspector = None
        elif verdict is False:
            self.fail()
        return bool(verdict)

    def _read(self) -> None:
        """Read bytes of the socket for the guest."""
        end = self.end
        piece = end.mss * max(1, _PIECE // end.mss)  # of full segments
        while self._can_read and self._socket is not None and (room := end.send_room):
            try:
                data = self._socket.recv(min(room, piece))
            except BlockingIOError:
                self._can_read = False
                return
            except OSError:
                self.fail()
                return
            if not data:
                self._can_read = False
                end.finish()
                return
            passed = self._report.bound(len(data))
            self._report.bytes_to_guest += passed
            end.send(data[:passed])
            if passed < len(data):
                return  # the rest is lost with the connection, see cut()

    def cut(self) -> None:
        """Reset both sides, since the limit of bytes is reached, and report that.

        A connection that was over is forgotten without a report.
        """
        if self.end.state not in (State.TIME_WAIT, State.CLOSED) or self.end.peek():
            self._report.count_denied(*self.destination, LIMIT_REACHED)
            if self._socket is not None:  # a guest that has finished has bytes that do not pass
                mark_for_reset(self._socket)
        self.fail()

    def fail(self) -> None:
        """Reset both sides."""
        self.end.abort()
        self._touch(self)

    def close(self) -> None:
        """Close the socket: with a reset, if the guest's side was not finished."""
        if self._socket is not None and self.end.failure is not None:
            mark_for_reset(self._socket)
        self._drop_socket()

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._poller.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._can_read = self._can_write = False
