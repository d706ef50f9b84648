"""Gateway between a guest and a host that are network namespaces of a test's own.

The guest's end of the link is a tap, so that Linux's TCP is the peer; the host has a name server of
its own, and whatever addresses a test needs, public ones too.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.machine.gateway import addresses
from slipway.machine.gateway_handle import GatewayHandle, GatewaySettings
from support.name_server import A, NameServer, build_question, parse_answer
from support.namespaces import Namespace, format_address, run_ip
from support.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from slipway._model.published_ports import PublishedPort

    Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GATEWAY = format_address(addresses.GATEWAY)
GUEST = format_address(addresses.GUEST)
# Addresses of servers in the rig's world, beyond the host.
PUBLIC = "93.184.216.34"
OTHER_PUBLIC = "93.184.216.35"
PUBLIC_6 = "2606:2800:220:1::1"
WORLD = (PUBLIC, OTHER_PUBLIC, PUBLIC_6)
# Public addresses of the host itself; the second is no primary one.
OWN_PUBLIC, SECOND_OWN_PUBLIC, OWN_PUBLIC_6 = "9.9.9.1", "9.9.9.2", "2620:fe::1"
# As in a container of a cluster: a name with few dots is tried below the search domain first.
RESOLV_CONF = "nameserver 127.0.0.1\nsearch cluster.test\noptions timeout:1 attempts:1 ndots:5\n"
NSSWITCH = "hosts: files dns\n"
# Bytes of a stream's buffer in asyncio.
STREAM_LIMIT = 1 << 20


class GatewayRig:
    """Gateway with surroundings; :func:`open_rig` makes and ends both."""

    def __init__(
        self, world: Namespace, host: Namespace, guest: Namespace, names: NameServer, tap: int
    ) -> None:
        self.world = world
        self.host = host
        self.guest = guest
        self.names = names
        self.tap = tap
        self.stack = AsyncExitStack()

    def set_guest_mtu(self, mtu: int) -> None:
        """Give the guest's interface an MTU."""
        with self.guest.enter():
            run_ip(f"link set eth0 mtu {mtu}")

    async def start_gateway(self, settings: GatewaySettings) -> GatewayHandle:
        """Start a gateway in the host's namespace; its link is the tap."""
        with self.host.enter_with_files():
            handle = GatewayHandle.start(settings, self.tap)
        return await self.stack.enter_async_context(handle)

    async def connect(
        self, address: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect from the guest; raises OSError if it is refused."""
        with self.guest.enter():
            client = socket.socket()
        return await self._connect(client, (address, port))

    async def connect_to_host(
        self, address: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect from the host to a published port."""
        with self.host.enter():
            client = socket.socket()
        return await self._connect(client, (address, port))

    async def connect_from_world(
        self, address: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect from another host to an address of this one; raises OSError if it is refused."""
        with self.world.enter():
            client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        return await self._connect(client, (address, port))

    async def _connect(
        self, client: socket.socket, address: tuple[str, int]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        client.setblocking(False)
        try:
            async with asyncio.timeout(LIMIT):
                await asyncio.get_running_loop().sock_connect(client, address)
        except BaseException:
            client.close()
            raise
        reader, writer = await asyncio.open_connection(sock=client, limit=STREAM_LIMIT)
        self.stack.callback(writer.transport.abort)
        return reader, writer

    async def serve(self, address: str, port: int, handler: Handler) -> int:
        """Serve on the host, or beyond it at an address of the world; return the port."""
        with (self.world if address in WORLD else self.host).enter():
            listening = create_server(address, port)
        return await self.serve_on(listening, handler)

    async def serve_in_guest(self, address: str, port: int, handler: Handler) -> int:
        """Serve in the guest; return the port."""
        with self.guest.enter():
            listening = create_server(address, port)
        return await self.serve_on(listening, handler)

    async def serve_on(self, listening: socket.socket, handler: Handler) -> int:
        """Serve on a bound socket; return its port."""
        server = await asyncio.start_server(
            handler, sock=listening, backlog=300, limit=STREAM_LIMIT
        )
        self.stack.callback(server.close)
        return int(listening.getsockname()[1])

    async def count_connections(self, address: str, port: int) -> Counter:
        """Serve on the host, and return the counter of connections."""
        counter = Counter()
        await self.serve(address, port, counter.count)
        return counter

    async def ask(self, name: str, kind: int = A) -> tuple[int, list[str]]:
        """Ask the gateway for a name; return the response code and the addresses."""
        answer = await self.exchange_datagram(build_question(name, kind), GATEWAY, 53)
        return parse_answer(answer)

    async def exchange_datagram(self, data: bytes, address: str, port: int) -> bytes:
        """Send a datagram from the guest; return the answer. Raises OSError if it is refused."""
        with self.guest.enter():
            client = socket.socket(type=socket.SOCK_DGRAM)
        with client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (address, port))
            await loop.sock_sendall(client, data)
            async with asyncio.timeout(LIMIT):
                return await loop.sock_recv(client, 65536)


class Counter:
    """Number of connections that a listener got."""

    def __init__(self) -> None:
        self.connections = 0

    async def count(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Count and end one."""
        self.connections += 1
        writer.close()


def create_server(address: str, port: int) -> socket.socket:
    """Return a bound socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    return listening


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, and end after the other end has."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass
    finally:
        writer.close()


class Receiver:
    """Server of one connection, which keeps what it receives."""

    def __init__(self, greeting: bytes, closes_first: bool, waits: bool) -> None:
        self.data: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.go_on = asyncio.Event()
        if not waits:
            self.go_on.set()
        self._greeting = greeting
        self._closes_first = closes_first

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the greeting, and receive to the end; a reset is an end too."""
        data = b""
        try:
            writer.write(self._greeting)
            if self._closes_first:
                writer.write_eof()
            await self.go_on.wait()
            data = await reader.read(-1)
        except ConnectionResetError:
            pass
        finally:
            writer.close()
            if not self.data.done():
                self.data.set_result(data)


def collect(greeting: bytes = b"", *, close_first: bytes = b"", wait: bool = False) -> Receiver:
    """Return a server of one connection: it may greet, finish first, or wait to read."""
    return Receiver(greeting or close_first, bool(close_first), wait)


def join(host: Namespace, world: Namespace) -> None:
    """Give the host an interface to the world, with public addresses and default routes."""
    host.add_interface(world, "eth0")
    with host.enter():
        for address in (f"{OWN_PUBLIC}/24", f"{SECOND_OWN_PUBLIC}/24", f"{OWN_PUBLIC_6}/64"):
            run_ip(f"address add {address} dev eth0 {'nodad' if ':' in address else ''}")
        run_ip("route add default via 9.9.9.254")
        run_ip("route add default via 2620:fe::fe")
    with world.enter():
        for address in ("9.9.9.254/24", "2620:fe::fe/64"):
            run_ip(f"address add {address} dev eth0 {'nodad' if ':' in address else ''}")


@asynccontextmanager
async def open_rig(directory: Path) -> AsyncIterator[GatewayRig]:
    """Make the namespaces and the host's name server, without a gateway."""
    (directory / "resolv.conf").write_text(RESOLV_CONF)
    (directory / "nsswitch.conf").write_text(NSSWITCH)
    files = {
        Path("/etc/resolv.conf"): directory / "resolv.conf",
        Path("/etc/nsswitch.conf"): directory / "nsswitch.conf",
    }
    async with AsyncExitStack() as stack:
        # Transports close their sockets in the next turn of the loop.
        stack.push_async_callback(asyncio.sleep, 0)
        host, world, guest = Namespace(files), Namespace(), Namespace()
        for namespace in (host, world, guest):
            stack.callback(namespace.close)
        join(host, world)
        for address in WORLD:
            world.add_address(address)
        tap = guest.open_tap()
        stack.callback(os.close, tap)
        with host.enter():
            listening = socket.socket(type=socket.SOCK_DGRAM)
            listening.bind(("127.0.0.1", 53))
        names = await NameServer.start(listening, {})
        stack.callback(names.close)
        rig = GatewayRig(world, host, guest, names, tap)
        await stack.enter_async_context(rig.stack)
        yield rig


async def start_with_ports(
    rig: GatewayRig, settings: GatewaySettings
) -> tuple[GatewayHandle, tuple[PublishedPort, ...]]:
    """Start a gateway and wait until it serves its guest."""
    handle = await rig.start_gateway(settings)
    return handle, await handle.wait_ready()
