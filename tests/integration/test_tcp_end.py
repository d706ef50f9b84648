"""The gateway's TCP end against Linux's, over a tap that loses, repeats and swaps frames."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from random import Random
from typing import TYPE_CHECKING

import pytest

from slipway.machine.gateway.addresses import GATEWAY
from slipway.machine.gateway.tcp_segment import Flow
from support.namespaces import Namespace, explain_missing, format_address, run_ip
from support.tap_server import FrameFaults, serve_tap
from support.waiting import LIMIT, block_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.debian("ip")

SERVER = (format_address(GATEWAY), 80)
GUEST_PORT = 7070
FAULTS = {
    "perfect": FrameFaults(),
    "lost": FrameFaults(lost=0.04),
    "repeated": FrameFaults(repeated=0.2),
    "swapped": FrameFaults(swapped=0.2),
    "all": FrameFaults(lost=0.03, repeated=0.1, swapped=0.1),
}


@pytest.fixture
def guest() -> Iterator[Namespace]:
    if missing := explain_missing():
        pytest.skip(missing)
    namespace = Namespace()
    yield namespace
    namespace.close()


@pytest.fixture
def tap(guest: Namespace) -> Iterator[int]:
    tap = guest.open_tap()
    yield tap
    os.close(tap)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Send all, finish, and return what comes back until the other side has finished."""

    def write() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write)
    writer.start()
    received = bytearray()
    while part := client.recv(1 << 16):
        received += part
    writer.join()
    return bytes(received)


def open_client(guest: Namespace) -> socket.socket:
    with guest.enter():
        client = socket.socket()
    client.settimeout(LIMIT)
    return client


@pytest.mark.parametrize("mtu", [65520, 1500])
@pytest.mark.parametrize("faults", FAULTS)
def test_bytes_come_back_from_linux(guest: Namespace, tap: int, faults: str, mtu: int) -> None:
    with guest.enter():
        run_ip(f"link set eth0 mtu {mtu}")
    data = os.urandom(3_000_000 if mtu > 1500 or faults == "perfect" else 200_000)

    with serve_tap(tap, Random(1), FAULTS[faults]), open_client(guest) as client:
        client.connect(SERVER)
        received = exchange(client, data)

    assert digest(received) == digest(data)


def test_both_sides_close_without_failure(guest: Namespace, tap: int) -> None:
    with serve_tap(tap, Random(1), FrameFaults()) as server:
        for _ in range(20):
            with open_client(guest) as client:
                client.connect(SERVER)
                assert exchange(client, b"hello") == b"hello"
        block_until(lambda: len(server.closed) == 20, "20 connections are closed")

    assert [end.failure for end in server.closed] == [None] * 20


@pytest.mark.parametrize("faults", ["perfect", "all"])
def test_gateway_connects_to_a_server_in_the_guest(guest: Namespace, tap: int, faults: str) -> None:
    with open_client(guest) as listening:
        listening.bind(("0.0.0.0", GUEST_PORT))
        listening.listen()
        with serve_tap(tap, Random(3), FAULTS[faults]) as server:
            server.connect(Flow(GUEST_PORT, GATEWAY, 40_000))
            client, _ = listening.accept()
            with client:
                client.settimeout(LIMIT)
                data = os.urandom(300_000)
                received = exchange(client, data)

    assert digest(received) == digest(data)


@pytest.mark.timeout(60)
def test_window_of_a_reader_that_pauses_closes_and_opens(guest: Namespace, tap: int) -> None:
    """Linux opens a small window late, and never if each segment fills all of it."""
    data = os.urandom(4_000_000)
    with serve_tap(tap, Random(1), FrameFaults()), open_client(guest) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        client.connect(SERVER)
        writer = threading.Thread(target=client.sendall, args=(data,))
        writer.start()
        received = bytearray()
        while len(received) < len(data):
            # The echo stops while both windows are closed.
            writer.join(0.005)
            part = client.recv(500_000)
            assert part
            received += part
        writer.join()

    assert digest(bytes(received)) == digest(data)


def test_reset_of_linux_ends_the_connection(guest: Namespace, tap: int) -> None:
    with serve_tap(tap, Random(1), FrameFaults()) as server:
        client = open_client(guest)
        client.connect(SERVER)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        block_until(lambda: server.closed, "the connection is closed")

    assert server.closed[0].failure is not None


def test_unknown_connection_is_reset(guest: Namespace, tap: int) -> None:
    with open_client(guest) as client:
        with serve_tap(tap, Random(1), FrameFaults()):
            client.connect(SERVER)
        # Another gateway on the same wire, as after a fork of a session.
        with serve_tap(tap, Random(1), FrameFaults()):
            client.send(b"hello")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
