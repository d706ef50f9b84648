"""Published ports: sockets of the host whose connections go to a port of the guest."""

from __future__ import annotations

import _socket
import errno
import os
from contextlib import suppress

from slipway._util.errors import InputError

# As many as may be open: a caller whose SYN is dropped tries again after a second only.
BACKLOG = 256
_NEW = _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
# Type of a file, as in its mode: inode(7), S_IFSOCK.
_SOCKET_TYPE = 0o14
# Host of a published port that is a socket in the file system.
UNIX = "unix"


class Listener:
    """Listening socket of one published port."""

    def __init__(self, guest_port: int, host: str, port: str) -> None:
        """Bind and listen.

        ``port`` is a number, 0 for one that the kernel chooses, or for the host ``unix`` the path
        of a new socket, which only this process's user may connect to.

        Raises:
            InputError: the address cannot be bound.
        """
        self.guest_port = guest_port
        self.host = host
        self.port = port
        family = _socket.AF_UNIX if host == UNIX else _find_family(host)
        self._socket = _socket.socket(family, _NEW)
        try:
            self._listen(family)
        except OSError as error:
            self.close()
            raise InputError(
                f"published port {port if host == UNIX else f'{host}:{port}'} cannot be bound:"
                f" {(error.strerror or str(error)).lower()}",
                _suggest_place(host, error.errno),
            ) from None

    def _listen(self, family: int) -> None:
        if family == _socket.AF_UNIX:
            _remove_abandoned_socket(self.port)
            mask = os.umask(0o177)
            try:
                self._socket.bind(self.port)
            finally:
                os.umask(mask)
        else:
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            self._socket.bind((self.host, int(self.port)))
            self.port = str(self._socket.getsockname()[1])
        self._socket.listen(BACKLOG)

    def close(self) -> None:
        """Close the socket; a path in the file system stays."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def accept(self) -> _socket.socket | None:
        """Return the next connection, which does not block; None if there is none."""
        try:
            # The public method is that of the module socket, whose import takes 7 ms.
            descriptor, _ = self._socket._accept()  # type: ignore[attr-defined]
        except OSError:
            return None
        connection = _socket.socket(fileno=descriptor)
        connection.setblocking(False)
        return connection


def _remove_abandoned_socket(path: str) -> None:
    """Remove the socket that a killed process of this user has left; any other file stays."""
    with suppress(OSError):
        status = os.lstat(path)
        if status.st_mode >> 12 != _SOCKET_TYPE or status.st_uid != os.geteuid():
            return
        probe = _socket.socket(_socket.AF_UNIX, _NEW)
        try:
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)  # noqa: PTH108  # the gateway is small without pathlib
        finally:
            probe.close()


def _suggest_place(host: str, code: int | None) -> str:
    """Return the remedy for an error of bind()."""
    if host == UNIX:
        return "Name a path that does not exist yet, in a directory that you may write to."
    if code == errno.EADDRNOTAVAIL:
        return "Name an address of this host, or leave it out for 127.0.0.1."
    return "Leave out the port, and a free one is chosen."


def _find_family(host: str) -> int:
    return _socket.AF_INET6 if ":" in host else _socket.AF_INET


def open_listeners(text: str) -> list[Listener]:
    """Return the listeners of a control message: lines of guest port, host, and port or path.

    Raises:
        InputError: an address cannot be bound.
    """
    listeners = []
    for line in text.splitlines():
        guest_port, host, port = line.split(" ", 2)
        listeners.append(Listener(int(guest_port), host, port))
    return listeners


def format_ports(listeners: list[Listener]) -> str:
    """Return the ports of a control message, as the kernel has chosen them; 0 for a path."""
    return " ".join("0" if one.host == UNIX else one.port for one in listeners)
