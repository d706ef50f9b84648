"""A gateway between Linux's own TCP and servers of a host, each in a network namespace."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import ssl
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway._model.network_use import DeniedDestination
from slipway._model.published_ports import PublishedPort
from slipway._util.errors import InputError
from slipway.machine.gateway.bounds import (
    MAX_CALLERS,
    MAX_CONNECTIONS,
    MAX_HALF_OPEN,
    MAX_LARGE,
)
from slipway.machine.gateway.report import ANSWER_RATE
from slipway.machine.gateway_handle import GatewaySettings
from support.gateway_rig import (
    GATEWAY,
    GUEST,
    OTHER_PUBLIC,
    OWN_PUBLIC,
    OWN_PUBLIC_6,
    PUBLIC,
    PUBLIC_6,
    SECOND_OWN_PUBLIC,
    GatewayRig,
    collect,
    create_server,
    echo,
    open_rig,
    start_with_ports,
)
from support.name_server import AAAA, build_question
from support.namespaces import explain_missing
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway.machine.gateway_handle import GatewayHandle

pytestmark = pytest.mark.debian("ip")

ECHO, HTTPS, CLOSED = 7000, 443, 9
OK, NAME_ERROR = 0, 3
RULES = f"echo.test\nother.test\n{PUBLIC}/32\nhost:8080"
SETTINGS = GatewaySettings(rules=RULES)
# Addresses that a host has for itself or for its own networks.
NOT_PUBLIC = (
    *("127.0.0.1", "127.8.9.10", "10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "198.18.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"),
)
NOT_PUBLIC_6 = ("::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "ff02::1")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[GatewayRig]:
    if missing := explain_missing():
        pytest.skip(missing)
    async with open_rig(tmp_path) as rig:
        yield rig


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def exchange(rig: GatewayRig, address: str, data: bytes, port: int = ECHO) -> str:
    """Send ``data`` and return the digest of what comes back."""
    reader, writer = await rig.connect(address, port)
    writer.write(data)
    writer.write_eof()
    return digest(await reader.read(-1))


# --- Bytes ---------------------------------------------------------------------------------------


async def test_bytes_come_back_and_both_ends_finish(rig: GatewayRig) -> None:
    await rig.serve(PUBLIC, ECHO, echo)
    await start_with_ports(rig, SETTINGS)
    data = os.urandom(3_000_001)

    assert await exchange(rig, PUBLIC, data) == digest(data)


async def test_host_finishes_first_and_the_guest_goes_on(rig: GatewayRig) -> None:
    received = collect(close_first=b"hello")
    await rig.serve(PUBLIC, ECHO, received.handle)
    await start_with_ports(rig, SETTINGS)
    data = os.urandom(500_000)

    reader, writer = await rig.connect(PUBLIC, ECHO)
    greeting = await reader.read(-1)
    writer.write(data)
    writer.write_eof()

    assert greeting == b"hello"
    assert digest(await received.data) == digest(data)


async def test_200_connections_at_once_are_all_answered_correctly(rig: GatewayRig) -> None:
    await rig.serve(PUBLIC, ECHO, echo)
    await start_with_ports(rig, SETTINGS)
    sent = [os.urandom(1 + 397 * number) for number in range(200)]

    answers = await asyncio.gather(*(exchange(rig, PUBLIC, data) for data in sent))

    assert answers == [digest(data) for data in sent]


@pytest.mark.parametrize("mtu", [65520, 9000, 1500, 576])
async def test_parallel_transfers_in_odd_pieces_with_slow_readers_are_right(
    rig: GatewayRig, mtu: int
) -> None:
    rig.set_guest_mtu(mtu)
    await rig.serve(PUBLIC, ECHO, echo)
    await start_with_ports(rig, SETTINGS)
    choice = random.Random(mtu)

    async def exchange_slowly(data: bytes) -> str:
        reader, writer = await rig.connect(PUBLIC, ECHO)

        async def write() -> None:
            at = 0
            while at < len(data):
                size = choice.choice((1, 7, 1447, 1448, 65_479, 65_480, 65_481, 300_000))
                writer.write(data[at : at + size])
                at += size
                await writer.drain()
            writer.write_eof()

        writing = asyncio.ensure_future(write())
        received = hashlib.sha256()
        while piece := await reader.read(choice.choice((100, 5_000, 200_000))):
            received.update(piece)
            if choice.random() < 0.1:
                await asyncio.sleep(choice.choice((0, 0.001, 0.02)))
        await writing
        return received.hexdigest()

    sent = [choice.randbytes(choice.choice((0, 1, 1_000, 100_000, 600_000))) for _ in range(60)]

    assert await asyncio.gather(*map(exchange_slowly, sent)) == [digest(data) for data in sent]


async def test_reader_that_pauses_loses_nothing_and_costs_no_cpu(rig: GatewayRig) -> None:
    data = os.urandom(12 << 20)
    await rig.serve(PUBLIC, ECHO, collect(greeting=data).handle)
    handle, _ = await start_with_ports(rig, SETTINGS)

    reader, _ = await rig.connect(PUBLIC, ECHO)
    await wait_until(lambda: has_stopped(handle), "the guest takes no more")
    before, began = cpu_seconds(handle.pid), asyncio.get_running_loop().time()
    await asyncio.sleep(0.5)
    used, passed = cpu_seconds(handle.pid) - before, asyncio.get_running_loop().time() - began

    assert used < passed / 4
    assert digest(await reader.readexactly(len(data))) == digest(data)


async def test_server_that_does_not_read_costs_no_cpu_and_gets_all(rig: GatewayRig) -> None:
    received = collect(wait=True)
    await rig.serve(PUBLIC, ECHO, received.handle)
    handle, _ = await start_with_ports(rig, SETTINGS)
    data = os.urandom(12 << 20)

    _, writer = await rig.connect(PUBLIC, ECHO)
    writer.write(data)
    writer.write_eof()
    await wait_until(lambda: has_stopped(handle), "the server takes no more")
    before, began = cpu_seconds(handle.pid), asyncio.get_running_loop().time()
    await asyncio.sleep(0.5)
    used, passed = cpu_seconds(handle.pid) - before, asyncio.get_running_loop().time() - began
    received.go_on.set()

    assert used < passed / 4
    assert digest(await received.data) == digest(data)


async def has_stopped(handle: GatewayHandle) -> bool:
    """Return True if bytes have passed, and none do now."""
    before = await handle.fetch_report()
    await asyncio.sleep(0.1)
    after = await handle.fetch_report()
    return before == after and after.bytes_to_guest + after.bytes_from_guest > 0


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_reset_of_a_server_reaches_the_guest(rig: GatewayRig) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        linger = b"\1\0\0\0\0\0\0\0"
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    await rig.serve(PUBLIC, ECHO, reset)
    await start_with_ports(rig, SETTINGS)

    reader, writer = await rig.connect(PUBLIC, ECHO)
    writer.write(b"x")

    with pytest.raises(ConnectionResetError):
        await reader.read(-1)


# --- Names ---------------------------------------------------------------------------------------


async def test_name_is_looked_up_at_the_connect_and_not_before(rig: GatewayRig) -> None:
    rig.names.table["echo.test"] = [[PUBLIC]]
    await rig.serve(PUBLIC, ECHO, echo)
    await start_with_ports(rig, SETTINGS)

    code, (address,) = await rig.ask("Echo.Test")
    before = dict(rig.names.asked)

    assert await exchange(rig, address, b"x") == digest(b"x")
    assert (code, before, rig.names.asked) == (OK, {}, {"echo.test": 1})


async def test_gateway_of_a_fork_knows_the_names_of_the_first(rig: GatewayRig) -> None:
    rig.names.table |= {"echo.test": [[OTHER_PUBLIC]], "other.test": [[PUBLIC]]}
    await rig.serve(PUBLIC, ECHO, echo)
    first, _ = await start_with_ports(rig, SETTINGS)
    await rig.ask("echo.test")
    _, (address,) = await rig.ask("other.test")

    names = await first.fetch_names()
    await first.close()
    await start_with_ports(rig, replace(SETTINGS, names=names))

    assert names == ("echo.test", "other.test")
    assert await exchange(rig, address, b"x") == digest(b"x")


async def test_more_names_than_a_message_holds_are_cut_between_two(rig: GatewayRig) -> None:
    handle, _ = await start_with_ports(rig, GatewaySettings(rules="open"))
    asked = [f"{'n' * 60}.{'m' * 60}.{number}.test" for number in range(600)]
    for name in asked:
        await rig.ask(name)

    names = await handle.fetch_names()

    assert 400 < len(names) < 600
    assert names == tuple(asked[: len(names)])


async def test_name_that_is_not_allowed_does_not_exist_and_is_never_asked(rig: GatewayRig) -> None:
    rig.names.table["secret.attacker.test"] = [[PUBLIC]]
    handle, _ = await start_with_ports(rig, SETTINGS)

    answer = await rig.ask("secret.attacker.test")
    report = await handle.fetch_report()

    assert answer == (NAME_ERROR, [])
    assert rig.names.asked == {}
    assert report.denied == (DeniedDestination("secret.attacker.test", 0, 1, "not-allowed"),)


async def test_name_has_no_address_of_ipv6(rig: GatewayRig) -> None:
    await start_with_ports(rig, SETTINGS)

    assert await rig.ask("echo.test", AAAA) == (OK, [])


async def test_name_with_ipv6_only_is_reached(rig: GatewayRig) -> None:
    rig.names.table["echo.test"] = [[PUBLIC_6]]
    await rig.serve(PUBLIC_6, ECHO, echo)
    await start_with_ports(rig, SETTINGS)

    _, (address,) = await rig.ask("echo.test")

    assert await exchange(rig, address, b"six") == digest(b"six")


async def test_address_that_refuses_is_followed_by_the_next(rig: GatewayRig) -> None:
    rig.names.table["echo.test"] = [[OTHER_PUBLIC, PUBLIC]]
    await rig.serve(PUBLIC, ECHO, echo)
    await start_with_ports(rig, SETTINGS)

    _, (address,) = await rig.ask("echo.test")

    assert await exchange(rig, address, b"x") == digest(b"x")


@pytest.mark.parametrize("inside", [*NOT_PUBLIC, *NOT_PUBLIC_6])
async def test_name_that_leads_inside_is_never_connected_to(rig: GatewayRig, inside: str) -> None:
    rig.names.table["echo.test"] = [[inside]]
    counter = await rig.count_connections("0.0.0.0", ECHO)
    counter_6 = await rig.count_connections("::1", ECHO)
    handle, _ = await start_with_ports(rig, SETTINGS)

    _, (address,) = await rig.ask("echo.test")
    with pytest.raises(ConnectionRefusedError):
        await rig.connect(address, ECHO)
    report = await handle.fetch_report()

    assert (counter.connections, counter_6.connections) == (0, 0)
    assert [(one.destination, one.reason) for one in report.denied] == [("echo.test", "not-public")]


@pytest.mark.parametrize("own", [OWN_PUBLIC, SECOND_OWN_PUBLIC, OWN_PUBLIC_6])
async def test_name_that_leads_to_the_host_itself_is_never_connected_to(
    rig: GatewayRig, own: str
) -> None:
    rig.names.table["echo.test"] = [[own]]
    counter = await rig.count_connections(own, ECHO)
    handle, _ = await start_with_ports(rig, SETTINGS)

    _, (address,) = await rig.ask("echo.test")
    with pytest.raises(ConnectionRefusedError):
        await rig.connect(address, ECHO)
    report = await handle.fetch_report()

    assert counter.connections == 0
    assert report.denied == (DeniedDestination("echo.test", ECHO, 1, "own-address"),)


async def test_address_of_the_host_itself_is_refused_in_spite_of_a_rule(rig: GatewayRig) -> None:
    counter = await rig.count_connections("0.0.0.0", ECHO)
    await rig.serve(PUBLIC, ECHO, echo)
    await start_with_ports(rig, GatewaySettings(rules="open"))

    for own in (OWN_PUBLIC, SECOND_OWN_PUBLIC):
        with pytest.raises(ConnectionRefusedError):
            await rig.connect(own, ECHO)

    assert await exchange(rig, PUBLIC, b"x") == digest(b"x")
    assert counter.connections == 0


async def test_resolver_that_rebinds_is_checked_at_each_connect(rig: GatewayRig) -> None:
    rig.names.table["echo.test"] = [[PUBLIC], ["127.0.0.1"], ["10.1.2.3"], [PUBLIC]]
    counter = await rig.count_connections("127.0.0.1", ECHO)
    await rig.serve(PUBLIC, ECHO, echo)
    await start_with_ports(rig, SETTINGS)
    _, (address,) = await rig.ask("echo.test")

    first = await exchange(rig, address, b"x")
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await rig.connect(address, ECHO)
    last = await exchange(rig, address, b"x")

    assert (first, last, counter.connections) == (digest(b"x"), digest(b"x"), 0)


async def test_mixed_answer_leads_to_its_public_part_only(rig: GatewayRig) -> None:
    rig.names.table["echo.test"] = [["127.0.0.1", PUBLIC, "10.1.2.3"]]
    counter = await rig.count_connections("127.0.0.1", ECHO)
    await rig.serve(PUBLIC, ECHO, echo)
    await start_with_ports(rig, SETTINGS)

    _, (address,) = await rig.ask("echo.test")

    assert await exchange(rig, address, b"x") == digest(b"x")
    assert counter.connections == 0


async def test_name_without_address_is_refused_and_reported(rig: GatewayRig) -> None:
    handle, _ = await start_with_ports(rig, SETTINGS)

    _, (address,) = await rig.ask("echo.test")
    with pytest.raises(ConnectionRefusedError):
        await rig.connect(address, ECHO)
    report = await handle.fetch_report()

    assert report.denied == (DeniedDestination("echo.test", ECHO, 1, "no-address"),)


async def test_name_is_not_looked_up_below_the_search_domains_of_the_host(rig: GatewayRig) -> None:
    rig.names.table["echo.test.cluster.test"] = [[PUBLIC]]
    counter = await rig.count_connections(PUBLIC, ECHO)
    await start_with_ports(rig, SETTINGS)

    _, (address,) = await rig.ask("echo.test")
    with pytest.raises(ConnectionRefusedError):
        await rig.connect(address, ECHO)

    assert (set(rig.names.asked), counter.connections) == ({"echo.test"}, 0)


async def test_host_without_name_resolution_refuses_names_and_connects_to_addresses(
    rig: GatewayRig, tmp_path: Path
) -> None:
    rig.names.close()
    for name in ("resolv.conf", "nsswitch.conf"):
        (tmp_path / name).write_text("")  # of the rig's host
    await rig.serve(PUBLIC, ECHO, echo)
    handle, _ = await start_with_ports(rig, SETTINGS)

    code, (address,) = await rig.ask("echo.test")
    with pytest.raises(ConnectionRefusedError):
        await rig.connect(address, ECHO)
    report = await handle.fetch_report()

    assert code == OK
    assert report.denied == (DeniedDestination("echo.test", ECHO, 1, "no-address"),)
    assert await exchange(rig, PUBLIC, b"x") == digest(b"x")


async def test_silent_resolver_does_not_stop_others(rig: GatewayRig) -> None:
    rig.names.silent.add("other.test")
    rig.names.table["echo.test"] = [[PUBLIC]]
    await rig.serve(PUBLIC, ECHO, echo)
    await start_with_ports(rig, SETTINGS)
    _, (silent,) = await rig.ask("other.test")
    _, (address,) = await rig.ask("echo.test")

    waiting = asyncio.ensure_future(rig.connect(silent, ECHO))
    await wait_until(lambda: rig.names.asked.get("other.test"), "the silent name is asked for")
    answer = await exchange(rig, address, b"x")

    assert answer == digest(b"x")
    with pytest.raises(ConnectionRefusedError):
        await waiting


# --- Policy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [*NOT_PUBLIC[2:7], OTHER_PUBLIC, GATEWAY, "198.18.1.7"])
async def test_address_that_is_not_allowed_is_refused_and_not_reached(
    rig: GatewayRig, address: str
) -> None:
    counter = await rig.count_connections("0.0.0.0", ECHO)
    handle, _ = await start_with_ports(rig, SETTINGS)

    with pytest.raises(ConnectionRefusedError):
        await rig.connect(address, ECHO)
    report = await handle.fetch_report()

    assert counter.connections == 0
    name = "host" if address == GATEWAY else address
    assert [(one.destination, one.port, one.count) for one in report.denied] == [(name, ECHO, 1)]


async def test_private_block_is_reached_by_its_rule_and_neither_by_a_name_nor_on_the_host(
    rig: GatewayRig,
) -> None:
    rig.world.add_address("10.1.2.3")
    rig.host.add_address("10.9.9.9")
    rig.names.table["echo.test"] = [["10.1.2.3"]]
    with rig.world.enter():
        inside = create_server("10.1.2.3", ECHO)
    await rig.serve_on(inside, echo)
    counter = await rig.count_connections("0.0.0.0", ECHO)
    handle, _ = await start_with_ports(rig, GatewaySettings(rules="10.0.0.0/8\necho.test"))
    _, (name,) = await rig.ask("echo.test")

    answer = await exchange(rig, "10.1.2.3", b"x")
    for address in ("10.9.9.9", name):
        with pytest.raises(ConnectionRefusedError):
            await rig.connect(address, ECHO)
    report = await handle.fetch_report()

    assert (answer, counter.connections) == (digest(b"x"), 0)
    assert [(one.destination, one.reason) for one in report.denied] == [
        ("10.9.9.9", "own-address"),
        ("echo.test", "not-public"),
    ]


async def test_port_without_a_server_is_refused(rig: GatewayRig) -> None:
    handle, _ = await start_with_ports(rig, SETTINGS)

    with pytest.raises(ConnectionRefusedError):
        await rig.connect(PUBLIC, CLOSED)

    assert (await handle.fetch_report()).denied == ()


async def test_port_of_the_host_is_reached_where_a_rule_names_it(rig: GatewayRig) -> None:
    await rig.serve("127.0.0.1", 8080, echo)
    counter = await rig.count_connections("127.0.0.1", 8081)
    await start_with_ports(rig, SETTINGS)

    answer = await exchange(rig, GATEWAY, b"x", port=8080)
    with pytest.raises(ConnectionRefusedError):
        await rig.connect(GATEWAY, 8081)

    assert (answer, counter.connections) == (digest(b"x"), 0)


async def test_datagrams_but_dns_are_refused(rig: GatewayRig) -> None:
    handle, _ = await start_with_ports(rig, SETTINGS)

    for address, port in ((PUBLIC, 53), (GATEWAY, 123)):
        with pytest.raises(OSError, match="No route to host"):
            await rig.exchange_datagram(build_question("echo.test"), address, port)
    report = await handle.fetch_report()

    assert [(one.destination, one.port) for one in report.denied] == [(PUBLIC, 53), (GATEWAY, 123)]


@pytest.mark.parametrize(
    ("server_name", "passes"),
    [("echo.test", True), ("ECHO.test", True), ("other.test", True), ("sibling.test", False)],
)
async def test_server_name_of_tls_has_to_be_allowed(
    rig: GatewayRig, server_name: str, passes: bool
) -> None:
    rig.names.table["echo.test"] = [[PUBLIC]]
    received = collect()
    await rig.serve(PUBLIC, HTTPS, received.handle)
    handle, _ = await start_with_ports(rig, SETTINGS)
    _, (address,) = await rig.ask("echo.test")
    hello = build_hello(server_name)

    reader, writer = await rig.connect(address, HTTPS)
    for start in range(0, len(hello), 100):
        writer.write(hello[start : start + 100])
        await writer.drain()
    if passes:
        writer.write_eof()
    else:
        with pytest.raises(ConnectionResetError):
            await reader.read(1)

    assert await received.data == (hello if passes else b"")
    reasons = [(one.destination, one.reason) for one in (await handle.fetch_report()).denied]
    assert reasons == ([] if passes else [("sibling.test", "wrong-server-name")])


@pytest.mark.parametrize(("size", "passes"), [(0, True), (1, False), (100, False)])
async def test_client_of_tls_that_finishes_before_its_hello(
    rig: GatewayRig, size: int, passes: bool
) -> None:
    rig.names.table["echo.test"] = [[PUBLIC]]
    received = collect()
    await rig.serve(PUBLIC, HTTPS, received.handle)
    await start_with_ports(rig, SETTINGS)
    _, (address,) = await rig.ask("echo.test")

    reader, writer = await rig.connect(address, HTTPS)
    writer.write(build_hello("echo.test")[:size])
    writer.write_eof()

    assert await received.data == b""
    if passes:
        assert await reader.read(1) == b""
    else:
        with pytest.raises(ConnectionResetError):
            await reader.read(1)


def build_hello(server_name: str) -> bytes:
    """Return the first bytes of a client of TLS."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname=server_name
    )
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def test_echo_of_icmp_is_answered_by_the_gateway_only(rig: GatewayRig) -> None:
    await start_with_ports(rig, SETTINGS)
    request = b"\x08\x00\xf7\xfd\x00\x01\x00\x01"

    with rig.guest.enter():
        client = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with client:
        client.setblocking(False)
        client.sendto(request, (PUBLIC, 0))
        client.sendto(request, (GATEWAY, 0))
        async with asyncio.timeout(60):
            packet = await asyncio.get_running_loop().sock_recv(client, 100)

    assert (socket.inet_ntoa(packet[12:16]), packet[20]) == (GATEWAY, 0)


# --- Published ports -----------------------------------------------------------------------------


async def test_200_connections_at_once_to_a_published_port(rig: GatewayRig) -> None:
    await rig.serve_in_guest("127.0.0.1", 8000, echo)
    settings = GatewaySettings(publish=(PublishedPort(8000, "127.0.0.1", 0),))
    _, (published,) = await start_with_ports(rig, settings)

    async def ask(data: bytes) -> bytes:
        reader, writer = await rig.connect_to_host("127.0.0.1", published.port)
        writer.write(data)
        writer.write_eof()
        return await reader.read(-1)

    sent = [os.urandom(1000) for _ in range(200)]
    assert await asyncio.gather(*map(ask, sent)) == sent


@pytest.mark.parametrize("address", [GUEST, "0.0.0.0", "127.0.0.1"])
async def test_published_port_leads_to_a_server_of_the_guest(rig: GatewayRig, address: str) -> None:
    await rig.serve_in_guest(address, 8000, echo)
    settings = GatewaySettings(publish=(PublishedPort(8000, "127.0.0.1", 0),))
    _, (published,) = await start_with_ports(rig, settings)
    data = os.urandom(1_000_000)

    reader, writer = await rig.connect_to_host("127.0.0.1", published.port)
    writer.write(data)
    writer.write_eof()

    assert digest(await reader.read(-1)) == digest(data)


async def test_port_is_reached_from_other_hosts_if_it_is_published_beyond_loopback(
    rig: GatewayRig,
) -> None:
    port = await rig.serve_in_guest("127.0.0.1", 0, collect(close_first=b"hello").handle)
    places = ("0.0.0.0", OWN_PUBLIC_6, "127.0.0.1")
    settings = GatewaySettings(publish=tuple(PublishedPort(port, place) for place in places))
    _, published = await start_with_ports(rig, settings)
    everywhere, single, loopback = (one.port for one in published)

    for address, number in ((OWN_PUBLIC, everywhere), (OWN_PUBLIC_6, single)):
        reader, _ = await rig.connect_from_world(address, number)
        assert await reader.read(5) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        await rig.connect_from_world(OWN_PUBLIC, loopback)


async def call_and_read(rig: GatewayRig, port: int) -> None:
    """Connect to a published port and read a byte; a reset may come at either step."""
    reader, _ = await rig.connect_to_host("127.0.0.1", port)
    await reader.read(1)


async def test_published_port_without_a_server_is_reset(rig: GatewayRig) -> None:
    settings = GatewaySettings(publish=(PublishedPort(8000, "127.0.0.1", 0),))
    _, (published,) = await start_with_ports(rig, settings)

    with pytest.raises(ConnectionResetError):
        await call_and_read(rig, published.port)


async def test_published_socket_is_removed_at_the_end(rig: GatewayRig, tmp_path: Path) -> None:
    await rig.serve_in_guest("127.0.0.1", 8000, echo)
    path = tmp_path / "socket"
    settings = GatewaySettings(publish=(PublishedPort(8000, "unix", 0, str(path)),))
    handle, ports = await start_with_ports(rig, settings)

    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"x")
    answer = await reader.readexactly(1)
    writer.close()
    await handle.close()

    assert (answer, ports) == (b"x", settings.publish)
    assert not path.exists()


async def test_published_port_that_is_taken_is_an_error_before_the_run(rig: GatewayRig) -> None:
    port = await rig.serve("127.0.0.1", 0, echo)
    settings = GatewaySettings(publish=(PublishedPort(8000, "127.0.0.1", port),))
    handle = await rig.start_gateway(settings)

    with pytest.raises(InputError, match=f"port 127.0.0.1:{port} cannot be bound"):
        await handle.wait_ready()


# --- Bounds --------------------------------------------------------------------------------------


async def test_connections_are_bounded_and_a_place_becomes_free(rig: GatewayRig) -> None:
    await rig.serve(PUBLIC, ECHO, echo)
    handle, _ = await start_with_ports(rig, SETTINGS)
    opened = []
    # No more than the bound on new ones permits.
    for number in range(MAX_CONNECTIONS):
        if number > 180:
            await asyncio.sleep(0.012)
        opened.append(await rig.connect(PUBLIC, ECHO))

    await asyncio.sleep(0.1)
    with pytest.raises(ConnectionRefusedError):
        await rig.connect(PUBLIC, ECHO)
    report = await handle.fetch_report()
    for _, writer in opened[:2]:
        writer.transport.abort()

    async def connects() -> bool:
        try:
            await rig.connect(PUBLIC, ECHO)
        except ConnectionRefusedError:
            return False
        return True

    assert [one.reason for one in report.denied] == ["too-many-connections"]
    await wait_until(connects, "a place is free")


async def test_limit_of_bytes_ends_all_connections_and_reports_each(rig: GatewayRig) -> None:
    await rig.serve(PUBLIC, ECHO, echo)
    settings = GatewaySettings(
        rules=RULES, publish=(PublishedPort(8000, "127.0.0.1", 0),), limit=1_000_000
    )
    handle, (published,) = await start_with_ports(rig, settings)

    idle, _ = await rig.connect(PUBLIC, ECHO)
    reader, writer = await rig.connect(PUBLIC, ECHO)
    writer.write(bytes(4_000_000))
    for cut in (reader, idle):
        with pytest.raises(ConnectionResetError):
            await cut.read(-1)
    report = await handle.fetch_report()
    with pytest.raises(ConnectionRefusedError):
        await rig.connect(PUBLIC, ECHO)
    with pytest.raises(ConnectionResetError):
        await call_and_read(rig, published.port)
    later = await handle.fetch_report()

    assert report.denied == (DeniedDestination(PUBLIC, ECHO, 2, "limit-reached"),)
    assert later.denied == (
        DeniedDestination(PUBLIC, ECHO, 3, "limit-reached"),
        DeniedDestination("guest", 8000, 1, "limit-reached"),
    )
    assert 500_000 < later.bytes_to_guest + later.bytes_from_guest <= 1_000_000


async def test_limit_of_bytes_lets_exactly_so_many_pass(rig: GatewayRig) -> None:
    await rig.serve(PUBLIC, ECHO, echo)
    handle, _ = await start_with_ports(rig, GatewaySettings(rules=RULES, limit=1_000))
    data = os.urandom(500)

    answer = await exchange(rig, PUBLIC, data)
    before = await handle.fetch_report()
    reader, writer = await rig.connect(PUBLIC, ECHO)
    writer.write(b"x")
    with pytest.raises(ConnectionResetError):
        await reader.read(-1)
    after = await handle.fetch_report()

    assert (answer, before.denied) == (digest(data), ())
    assert after.denied == (DeniedDestination(PUBLIC, ECHO, 1, "limit-reached"),)
    assert (after.bytes_to_guest, after.bytes_from_guest) == (500, 500)


async def test_flood_of_frames_of_any_content_changes_nothing(rig: GatewayRig) -> None:
    await rig.serve(PUBLIC, ECHO, echo)
    handle, _ = await start_with_ports(rig, SETTINGS)
    with rig.guest.enter():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind(("eth0", 0))
    header = bytes.fromhex("525400534c51525400534c500800")

    with raw:
        for number in range(20_000):
            content = os.urandom(20 + number % 300)
            raw.send(header + b"E" + content if number % 2 else content)

    assert await exchange(rig, PUBLIC, b"x") == digest(b"x")
    assert not handle.has_failed


async def test_kernel_of_the_host_keeps_little_of_many_connections(rig: GatewayRig) -> None:
    with rig.world.enter():
        idle = create_server(PUBLIC, ECHO)
    idle.listen(100)
    handle, _ = await start_with_ports(rig, SETTINGS)

    async def fill(connections: int) -> int:
        """Return the bytes that servers have not read, of so many connections more."""
        before = (await handle.fetch_report()).bytes_from_guest
        for _ in range(connections):
            _, writer = await rig.connect(PUBLIC, ECHO)
            writer.write(bytes(8 << 20))
        await wait_until(lambda: has_stopped(handle), "the host takes no more")
        return (await handle.fetch_report()).bytes_from_guest - before

    with idle:
        await fill(MAX_LARGE)

        # The buffers of both ends, the gateway's and the server's.
        assert await fill(24) < 24 * (1 << 19)


async def test_callers_that_wait_leave_the_guest_its_own_connections(rig: GatewayRig) -> None:
    # A full backlog: the guest does not answer further callers.
    with rig.guest.enter():
        slow = socket.socket()
        slow.bind((GUEST, 8000))
        slow.listen(1)
    await rig.serve(PUBLIC, ECHO, echo)
    settings = replace(SETTINGS, publish=(PublishedPort(8000, "127.0.0.1", 0),))
    handle, (published,) = await start_with_ports(rig, settings)

    with slow:
        for _ in range(2 * MAX_HALF_OPEN + 20):
            await rig.connect_to_host("127.0.0.1", published.port)

        async def has_callers() -> bool:
            return (await handle.fetch_report()).connections >= MAX_HALF_OPEN

        await wait_until(has_callers, "the places for callers are taken")
        assert await exchange(rig, PUBLIC, b"x") == digest(b"x")

        # None of them was given up before that.
        assert (await handle.fetch_report()).connections < 2 * MAX_HALF_OPEN


async def test_callers_that_stay_leave_the_guest_its_own_connections(rig: GatewayRig) -> None:
    await rig.serve_in_guest(GUEST, 8000, echo)
    await rig.serve(PUBLIC, ECHO, echo)
    settings = replace(SETTINGS, publish=(PublishedPort(8000, "127.0.0.1", 0),))
    handle, (published,) = await start_with_ports(rig, settings)

    for _ in range(MAX_CONNECTIONS + 20):
        await rig.connect_to_host("127.0.0.1", published.port)

    async def has_callers() -> bool:
        return (await handle.fetch_report()).connections == MAX_CALLERS

    await wait_until(has_callers, "the places for callers are taken")
    assert await exchange(rig, PUBLIC, b"x") == digest(b"x")


async def test_denied_requests_have_a_thousand_answers_and_later_ten_a_second(
    rig: GatewayRig,
) -> None:
    handle, _ = await start_with_ports(rig, SETTINGS)
    with rig.guest.enter():
        client = socket.socket(type=socket.SOCK_DGRAM)
    answers = 0
    with client:
        client.connect((GATEWAY, 53))
        client.setblocking(False)
        for _ in range(30):
            for _ in range(100):
                client.send(build_question("denied.test"))
            await rig.ask("echo.test")  # answered after the others
            answers += count_datagrams(client)

    assert (await handle.fetch_report()).denials == 3000
    assert 1000 <= answers < 2000
    await asyncio.sleep(5 / ANSWER_RATE)
    assert await rig.ask("denied.test") == (NAME_ERROR, [])


def count_datagrams(client: socket.socket) -> int:
    """Return the number of datagrams that are there."""
    for number in count():
        try:
            client.recv(512)
        except BlockingIOError:
            return number
    raise AssertionError


# --- Ends ----------------------------------------------------------------------------------------


async def test_killed_gateway_is_noticed_and_the_next_resets_old_connections(
    rig: GatewayRig,
) -> None:
    await rig.serve(PUBLIC, ECHO, echo)
    first, _ = await start_with_ports(rig, SETTINGS)
    reader, writer = await rig.connect(PUBLIC, ECHO)
    writer.write(b"x")
    await reader.readexactly(1)

    os.kill(first.pid, signal.SIGKILL)
    await wait_until(lambda: first.has_failed, "the end of the gateway is noticed")
    second, _ = await start_with_ports(rig, SETTINGS)
    writer.write(b"y")

    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    assert await exchange(rig, PUBLIC, b"z") == digest(b"z")
    assert (first.has_failed, second.has_failed) == (True, False)


async def test_report_counts_connections_and_bytes(rig: GatewayRig) -> None:
    await rig.serve(PUBLIC, ECHO, echo)
    handle, _ = await start_with_ports(rig, SETTINGS)
    for _ in range(3):
        await exchange(rig, PUBLIC, bytes(1000))

    report = await handle.close()

    assert (report.connections, report.bytes_from_guest, report.bytes_to_guest) == (3, 3000, 3000)
    assert not handle.has_failed
