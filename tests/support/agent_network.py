"""The agent's network set-up in a network namespace, with a tap in the place of the device.

``python -m support.agent_network CODE`` runs ``CODE``, the body of a test inside of the namespace,
with the names of this module.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
from pathlib import Path

from slipway.machine.gateway import addresses
from slipway_agent import network, syscalls, tcp_port
from slipway_agent.loop import READABLE, WRITABLE, Loop
from slipway_protocol import messages as m

# include/uapi/linux/sched.h, if_tun.h
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x1002
IPV4 = b"\x08\x00"
UDP = 17
# Seconds of a wait for a packet of the kernel's.
PATIENCE = 30.0
# Seconds in which no packet comes where none is expected.
SILENCE = 0.3
GUEST = socket.inet_ntoa(addresses.GUEST)
GATEWAY = socket.inet_ntoa(addresses.GATEWAY)
NO_MODULES = "/nonexistent"

SPEC = m.Connect(
    addresses.GUEST,
    addresses.GATEWAY,
    addresses.PREFIX_BITS,
    addresses.MTU,
    addresses.GATEWAY_MAC,
)


def run_in_namespace(code: str) -> None:
    """Run ``code`` in a process with a network namespace; an exception fails the test."""
    ended = subprocess.run(
        [sys.executable, "-m", "support.agent_network", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


class Tap:
    """Device ``eth0`` and the wire behind it."""

    def __init__(self) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR)
        request = struct.pack("16sH22x", network.INTERFACE.encode(), IFF_TAP_NO_PI)
        fcntl.ioctl(self.fd, TUNSETIFF, request)
        address = struct.pack("16sH6s16x", network.INTERFACE.encode(), 1, addresses.GUEST_MAC)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, 0x8924, address)  # SIOCSIFHWADDR

    def receive(self, seconds: float = PATIENCE) -> bytes | None:
        """Return the next frame from the guest, or None if none comes."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return None
        return os.read(self.fd, addresses.MAX_FRAME)

    def send_datagram(self, destination: str, port: int, data: bytes) -> None:
        """Send a UDP datagram of the gateway to the guest."""
        header = struct.pack("!HHHH", 9, port, 8 + len(data), 0) + data
        ip = struct.pack(
            "!BBHHHBBH4s4s",
            *(0x45, 0, 20 + len(header), 0, 0, 64, UDP, 0),
            addresses.GATEWAY,
            socket.inet_aton(destination),
        )
        total = sum(struct.unpack("!10H", ip))
        ip = ip[:10] + struct.pack("!H", 0xFFFF - total % 0xFFFF) + ip[12:]
        os.write(self.fd, addresses.GUEST_MAC + addresses.GATEWAY_MAC + IPV4 + ip + header)


def listen_on_loopback() -> tcp_port.TcpPort:
    """Return a port of the guest's address, where both addresses of the wire are local."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for number, address in enumerate((addresses.GUEST, addresses.GATEWAY)):
            sockaddr = struct.pack("HH4s8x", socket.AF_INET, 0, address)
            request = struct.pack("16s16s8x", f"lo:{number}".encode(), sockaddr)
            fcntl.ioctl(control, network.SIOCSIFADDR, request)
    port = tcp_port.listen(SPEC)
    port.watch(LOOP, READABLE, handle_event)
    return port


def connect_to_port(source: str) -> socket.socket:
    """Return a connection to the port from the address ``source``, with a limit on each wait."""
    return socket.create_connection((GUEST, tcp_port.PORT), PATIENCE, source_address=(source, 0))


def wait_for_bytes(port: tcp_port.TcpPort, count: int) -> bytes:
    """Return the next ``count`` bytes that arrive at the port."""
    data = b""
    while len(data) < count:
        LOOP.run_once()
        data += port.read()
    return data


def handle_event(_events: int) -> None:
    """Do nothing: the test itself reads and writes."""


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """Return the next ``count`` bytes of a connection."""
    data = bytearray()
    while len(data) < count and (piece := connection.recv(count - len(data))):
        data += piece
    return bytes(data)


def open_socket() -> socket.socket:
    """Return a socket for datagrams, with a limit on each wait."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.settimeout(PATIENCE)
    return udp


BOTH = READABLE | WRITABLE
LOOP = Loop(lambda _children: None)

if __name__ == "__main__":
    syscalls.unshare(CLONE_NEWNET)
    network.raise_loopback()
    exec(sys.argv[1])
