"""The option ``network``: the destinations that a program reaches, and those in its result."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from slipway import AsyncRuntime, InputError, Network
from slipway._model.events import Started
from support.programs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.network_use import NetworkUse
    from slipway._model.published_ports import PublishedPort

pytestmark = pytest.mark.usefixtures("bash")

LIMITS: dict[str, Any] = PATIENCE
# Prints the first line of the server at host $1, port $2, or the reason of a failure.
CONNECT = """connect() {
    if exec 3<>"/dev/tcp/$1/$2"; then head -n 1 <&3; exec 3>&-; fi
} 2>&1
"""
# Answers one connection at port 8000 of the guest's loopback.
SERVER = """
use IO::Socket::INET;
my $listener = IO::Socket::INET->new(LocalAddr => "127.0.0.1:8000", Listen => 1) or die;
$| = 1; print "listening\\n";
my $peer = $listener->accept; print $peer "from the guest\\n";
"""


class Listener:
    """Server on the host's loopback that greets and counts its connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def greet(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b"from the host\n")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.greet, "127.0.0.1", 0)
    async with server:
        listener.port = server.sockets[0].getsockname()[1]
        yield listener


async def read_line(port: PublishedPort) -> bytes:
    reader, writer = await asyncio.open_connection(port.host, port.port)
    try:
        return await asyncio.wait_for(reader.readline(), PATIENCE["timeout"])
    finally:
        writer.close()


def find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def find_gateways() -> list[psutil.Process]:
    """Return the gateways of this process."""
    return [
        child
        for child in psutil.Process().children()
        if any("machine.gateway.process" in word for word in child.cmdline())
    ]


def find_denied(use: NetworkUse | None) -> list[tuple[str, int, str]]:
    assert use is not None
    return [(each.destination, each.port, each.reason) for each in use.denied]


async def test_program_reaches_the_allowed_port_of_the_host_and_nothing_else(machine: str) -> None:
    async with (
        listening() as allowed,
        listening() as other,
        AsyncRuntime(machine=machine) as runtime,
    ):
        result = await runtime.run(
            f"""{CONNECT}
connect host {allowed.port}
connect 198.18.0.1 {allowed.port}
for address in 198.18.0.1 127.0.0.1 10.0.0.1 169.254.169.254 8.8.8.8; do
    connect $address {other.port} | grep -o 'Connection refused' | head -n 1
done
getent hosts evil.example || echo unknown
""",
            "bash",
            network=Network(allow=(f"host:{allowed.port}",)),
            **LIMITS,
        )

    assert result.stdout.splitlines() == [
        *["from the host"] * 2,
        *["Connection refused"] * 5,
        "unknown",
    ]
    assert (allowed.connections, other.connections) == (2, 0)
    assert find_denied(result.network) == [
        ("host", other.port, "port-not-allowed"),
        ("10.0.0.1", other.port, "not-allowed"),
        ("169.254.169.254", other.port, "not-public"),
        ("8.8.8.8", other.port, "not-allowed"),
        ("evil.example", 0, "not-allowed"),
    ]
    assert result.network is not None
    assert result.network.connections == 2
    assert result.network.bytes_to_guest >= 28


async def test_published_port_leads_to_a_server_on_the_loopback_of_the_guest(machine: str) -> None:
    async with AsyncRuntime(machine=machine) as runtime:
        network = Network(publish=(8000,))
        execution = await runtime.start(f"perl -e '{SERVER}'", "bash", network=network, **LIMITS)
        answer, ports = b"", None
        async for event in execution:
            if isinstance(event, Started):
                ports = event.ports
            elif b"listening" in getattr(event, "data", b""):
                answer = await read_line(execution.ports[0])

    assert answer == b"from the guest\n"
    assert ports == execution.ports
    assert execution.ports[0].guest == 8000


async def test_place_that_is_in_use_is_an_error_before_the_run(machine: str) -> None:
    async with listening() as taken, AsyncRuntime(machine=machine) as runtime:
        with pytest.raises(InputError, match=rf"127\.0\.0\.1:{taken.port}"):
            await runtime.run("true", "bash", network=Network(publish=(f"{taken.port}:80",)))


async def test_runs_of_a_session_and_its_fork_share_the_rules(machine: str) -> None:
    port = find_free_port()
    # The lab has one CPU, and both machines live at once.
    async with listening() as listener, AsyncRuntime(machine=machine, cpus=2) as runtime:
        network = Network(allow=(f"host:{listener.port}",), publish=(80, f"{port}:81"))
        source = f"{CONNECT}\nconnect host {listener.port}; getent hosts evil.example"
        async with runtime.session("bash", network=network) as session:
            first = await session.run(source, **LIMITS)
            async with await session.fork() as fork:
                forked = await fork.run(source, **LIMITS)
                again = await session.run("true", **LIMITS)

    assert [result.stdout for result in (first, forked)] == ["from the host\n"] * 2
    for result in (first, forked):
        assert find_denied(result.network) == [("evil.example", 0, "not-allowed")]
    assert again.network is not None
    assert (again.network.connections, again.network.denied) == (0, ())
    assert [published.port == port for published in session.ports] == [False, True]
    assert [published.guest for published in fork.ports] == [80]


async def test_run_goes_on_without_a_network_when_its_gateway_is_killed(machine: str) -> None:
    async with listening() as listener, AsyncRuntime(machine=machine) as runtime:
        network = Network(allow=(f"host:{listener.port}",), publish=(80,))
        execution = await runtime.start(
            "echo started; read line; echo went on", "bash", stdin=None, network=network, **LIMITS
        )
        said = b""
        async for event in execution:
            said += getattr(event, "data", b"")
            if said == b"started\n":
                (gateway,) = find_gateways()
                gateway.kill()
                await execution.stdin.write("\n")
        result = await execution.wait()

    assert said == b"started\nwent on\n"
    assert result.ok
    assert result.network is not None
    assert result.network.failed
    assert find_gateways() == []


async def test_machine_without_the_option_has_no_network(machine: str) -> None:
    async with AsyncRuntime(machine=machine) as runtime:
        result = await runtime.run("echo $(ls /sys/class/net)", "bash", **LIMITS)

    assert result.stdout == "lo\n"
    assert result.network is None
