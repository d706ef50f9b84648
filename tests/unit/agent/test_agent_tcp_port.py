"""The agent's port on a network: the gateway's latest connection, and nobody else's."""

from __future__ import annotations

import pytest

from slipway_agent.tcp_port import parse_network
from support.agent_network import SPEC, run_in_namespace

pytestmark = pytest.mark.usefixtures("taps")


def test_bytes_travel_in_both_directions() -> None:
    run_in_namespace("""
port = listen_on_loopback()
host = connect_to_port(GATEWAY)
port.wait_connected()
host.sendall(b"to the agent")
assert wait_for_bytes(port, 12) == b"to the agent"
port.send(b"to the ")
port.send(b"host")
port.flush()
assert receive_exactly(host, 11) == b"to the host"
assert (port.pending, port.kind) == (0, "tcp")
""")


def test_program_in_the_guest_is_not_let_in() -> None:
    run_in_namespace("""
port = listen_on_loopback()
for source in (GUEST, "127.0.0.1"):
    program = connect_to_port(source)
    program.sendall(b"I am the host")
    LOOP.run_once()
    assert port.read() == b""
    try:
        assert program.recv(100) == b""
    except ConnectionResetError:
        pass
host = connect_to_port(GATEWAY)
port.wait_connected()
intruder = connect_to_port(GUEST)
port.send(b"for the host only")
port.read()
port.flush()
assert receive_exactly(host, 17) == b"for the host only"
""")


def test_later_connection_of_the_gateway_supersedes_the_earlier() -> None:
    run_in_namespace("""
port = listen_on_loopback()
first = connect_to_port(GATEWAY)
port.wait_connected()
second = connect_to_port(GATEWAY)
second.sendall(b"hello")
assert wait_for_bytes(port, 5) == b"hello"
port.send(b"to the second")
port.flush()
assert receive_exactly(second, 13) == b"to the second"
assert first.recv(100) == b""
""")


def test_port_outlives_a_connection_that_ends() -> None:
    run_in_namespace("""
port = listen_on_loopback()
connect_to_port(GATEWAY).close()
port.wait_connected()
LOOP.run_once()
assert port.read() == b""
LOOP.call_at(0.0, lambda: None)  # else a turn without events would wait for ever
LOOP.run_once()
port.send(b"nobody is there")
port.flush()
assert port.pending == 15
host = connect_to_port(GATEWAY)
LOOP.run_once()
assert port.read() == b""
port.flush()
assert receive_exactly(host, 15) == b"nobody is there"
assert port.pending == 0
""")


def test_connection_that_is_full_takes_the_rest_when_it_is_read() -> None:
    run_in_namespace("""
import threading
port = listen_on_loopback()
host = connect_to_port(GATEWAY)
port.wait_connected()
data = os.urandom(20 << 20)
for start in range(0, len(data), 60000):
    port.send(data[start : start + 60000])
port.flush()
assert port.pending > 0
received = []
reader = threading.Thread(target=lambda: received.append(receive_exactly(host, len(data))))
reader.start()
port.watch(LOOP, BOTH, handle_event)
while port.pending:
    LOOP.run_once()
    port.read()
    port.flush()
reader.join(PATIENCE)
assert received == [data]
""")


def test_last_bytes_are_with_the_gateway_before_the_machine_ends() -> None:
    run_in_namespace("""
port = listen_on_loopback()
host = connect_to_port(GATEWAY)
port.wait_connected()
port.send(b"the end")
port.flush_and_wait()
assert host.recv(100, socket.MSG_DONTWAIT) == b"the end"
""")


def test_option_of_the_kernel_names_the_interface() -> None:
    assert parse_network("tcp,198.18.0.2,30,198.18.0.1,52:54:00:53:4c:51,65520") == SPEC


@pytest.mark.parametrize("option", ["tcp,", "tcp,a,b,c,d,e", "tcp,198.18.0.2,30,198.18.0.1,x,1"])
def test_invalid_option_is_an_error(option: str) -> None:
    with pytest.raises((OSError, ValueError)):
        parse_network(option)
