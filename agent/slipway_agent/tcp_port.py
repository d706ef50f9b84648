"""Port of TCP: the agent listens on its network interface, and the gateway connects.

Only connections from the gateway's address are let in. A program cannot have that address: it takes
CAP_NET_ADMIN to set an address, and CAP_NET_RAW to send packets with another one. A later
connection of the gateway supersedes the earlier: that of a clone comes from a new gateway.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
from struct import unpack
from time import monotonic, sleep

from slipway_agent import network
from slipway_agent.loop import READABLE
from slipway_agent.port import READ_SIZE, TCP, HostPort
from slipway_protocol import messages as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway_agent.loop import Handler, Loop

# Below 1024, where a program cannot listen.
PORT = 1
BACKLOG = 16
# include/uapi/asm-generic/ioctls.h: bytes that the peer has not acknowledged; tcp(7), SIOCOUTQ
TIOCOUTQ = 0x5411
LAST_BYTES_SECONDS = 2.0
STEP_SECONDS = 0.001
_OPTIONS = 6


class TcpPort(HostPort):
    """Listening socket, and the gateway's latest connection, if any."""

    def __init__(self, listener: socket.socket, gateway: str) -> None:
        """Take over ``listener``; ``gateway`` is the only address whose connections are let in."""
        super().__init__(listener.fileno(), TCP)
        self._listener = listener
        self._gateway = gateway
        self._stream: socket.socket | None = None
        # Set by watch().
        self._loop: Loop | None = None
        self._events = 0
        self._handler: Handler | None = None

    def wait_connected(self) -> None:
        """Wait until the gateway has connected."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while self._stream is None:
            poll.poll()
            self._accept()

    def watch(self, loop: Loop, events: int, handler: Handler) -> None:
        """Watch for further connections, and for ``events`` of the present one."""
        self._loop, self._events, self._handler = loop, events, handler
        loop.watch(self.fd, READABLE, handler)
        self._watch_stream()

    def read(self) -> bytes:
        """Return the bytes that have arrived, or b""; the end of a connection is not the port's."""
        self._accept()
        if self._stream is None:
            return b""
        try:
            data = os.read(self._stream.fileno(), READ_SIZE)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._drop_stream()
        return data

    def flush_and_wait(self) -> None:
        """Write the queue and wait, for a limited time, until the gateway has all of it."""
        deadline = monotonic() + LAST_BYTES_SECONDS
        while monotonic() < deadline and self._stream is not None:
            self.flush()
            if not self.pending and not self._count_unacknowledged(self._stream):
                return
            sleep(STEP_SECONDS)

    def _write(self, data: bytes) -> int:
        if self._stream is None:
            return 0
        try:
            return os.write(self._stream.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError:
            self._drop_stream()
            return 0

    def _accept(self) -> None:
        """Take the gateway's latest connection, and close all others."""
        while True:
            try:
                # The method of the built-in module: the agent's start avoids the module socket.
                descriptor, address = self._listener._accept()  # type: ignore[attr-defined]
            except OSError:
                return
            if address[0] != self._gateway:
                os.close(descriptor)
                continue
            self._drop_stream()
            stream = socket.socket(fileno=descriptor)
            stream.setblocking(False)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._stream = stream
            self._watch_stream()

    def _watch_stream(self) -> None:
        if self._loop is not None and self._handler is not None and self._stream is not None:
            self._loop.watch(self._stream.fileno(), self._events, self._handler)

    def _drop_stream(self) -> None:
        if self._stream is not None:
            if self._loop is not None:
                self._loop.forget(self._stream.fileno())
            self._stream.close()
        self._stream = None

    @staticmethod
    def _count_unacknowledged(stream: socket.socket) -> int:
        (count,) = unpack("i", fcntl.ioctl(stream.fileno(), TIOCOUTQ, bytes(4)))
        return int(count)


def parse_network(option: str) -> m.Connect:
    """Return the interface in the option ``tcp,ADDRESS,PREFIX,GATEWAY,MAC,MTU``.

    Raises:
        OSError: an address is invalid.
        ValueError: the option has another form.
    """
    words = option.split(",")
    if len(words) != _OPTIONS:
        raise ValueError(f"not of the form tcp,ADDRESS,PREFIX,GATEWAY,MAC,MTU: {option}")
    _, address, prefix, gateway, mac, mtu = words
    return m.Connect(
        socket.inet_aton(address),
        socket.inet_aton(gateway),
        int(prefix),
        int(mtu),
        bytes.fromhex(mac.replace(":", "")),
    )


def open_tcp_port(option: str) -> TcpPort:
    """Bring the network of ``option`` up, listen, and wait for the gateway.

    Raises:
        OSError: the interface is missing, or the kernel refuses.
        ValueError: the option is invalid; see :func:`parse_network`.
    """
    spec = parse_network(option)
    network.connect(spec)
    port = listen(spec)
    port.wait_connected()
    return port


def listen(spec: m.Connect) -> TcpPort:
    """Return the port on the interface of ``spec``, without a connection yet.

    Raises:
        OSError: the kernel refuses.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind((socket.inet_ntoa(spec.address), PORT))
    listener.listen(BACKLOG)
    return TcpPort(listener, socket.inet_ntoa(spec.gateway))
