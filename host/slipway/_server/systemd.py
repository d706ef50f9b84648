"""Socket activation and notification by systemd: sd_listen_fds(3) and sd_notify(3).

Both protocols are a few lines, and documented as stable. The libraries for them are no longer
maintained, or need libsystemd and a compiler.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._util.errors import HostError, InputError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# SD_LISTEN_FDS_START of systemd.
FIRST_DESCRIPTOR = 3


def take_inherited_socket(
    environment: MutableMapping[str, str], first: int = FIRST_DESCRIPTOR
) -> socket.socket | None:
    """Return the listening Unix socket that systemd passes, if any.

    systemd's variables are removed from ``environment``: child processes must not get them.

    Raises:
        InputError: several sockets, or not a listening Unix stream socket.
    """
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count:
        return None
    if count != "1":
        raise InputError(
            f"systemd passes {count[:20]} sockets instead of one",
            "Leave one ListenStream= in the socket unit.",
        )
    os.set_inheritable(first, False)
    inherited = socket.socket(fileno=first)
    listens = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (inherited.family, inherited.type) != (socket.AF_UNIX, socket.SOCK_STREAM) or not listens:
        inherited.close()
        raise InputError(
            "systemd passes a descriptor that is not a listening Unix stream socket",
            "Use ListenStream=/an/absolute/path and Accept=no in the socket unit.",
        )
    return inherited


def parse_socket_name(name: object) -> str:
    """Return the path in a socket's name, as returned by getsockname(2).

    Raises:
        InputError: the name is not a path, so that output sockets would have no directory.
    """
    if not isinstance(name, str) or not name.startswith("/"):
        raise InputError(
            f"the socket that systemd passes is bound to {name!r:.80}, not to an absolute path",
            "Use ListenStream=/an/absolute/path in the socket unit.",
        )
    return name


class Notifier:
    """Sender of the server's state to the service manager, if any.

    Attributes:
        watchdog_seconds: interval of messages to the watchdog; None without a watchdog.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Remove the manager's address from ``environment``: child processes must not get it."""
        self._address = environment.pop("NOTIFY_SOCKET", "")
        usec = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", str(os.getpid()))
        self.watchdog_seconds: float | None = None
        if self._address and usec.isdigit() and int(usec) and pid == str(os.getpid()):
            # sd_watchdog_enabled(3): "recommended ... every half of the time".
            self.watchdog_seconds = int(usec) / 2e6

    def __call__(self, *lines: str) -> None:
        """Send ``lines`` such as ``READY=1``; a manager that does not listen is ignored."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):  # the abstract namespace, unix(7)
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), address)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit, and return it (getrlimit(2)).

    Raises:
        HostError: the limit is too low for a server.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    if soft < 128:
        raise HostError(
            f"the limit of {soft} open files is too low for a server",
            "Raise the limit: ulimit -n 65536",
        )
    return soft
