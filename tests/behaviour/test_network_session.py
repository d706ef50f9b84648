"""Session whose host knows an index of packages by name, and a browser at its published port."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slipway import AsyncClient, Network
from slipway._model.events import Output
from support.gateway_rig import PUBLIC, GatewayRig, open_rig
from support.namespaces import explain_missing
from support.package_index import serve_directory, write_index
from support.programs import PATIENCE
from support.serving import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from slipway._model.execution import AsyncExecution

pytestmark = [pytest.mark.debian("ip"), pytest.mark.usefixtures("image_store")]

LIMITS: dict[str, Any] = PATIENCE
INDEX = "packages.example"
# Installs a package, and tells of a name that is not allowed.
INSTALL = f"""
import socket, subprocess, sys
options = ["-q", "--disable-pip-version-check", "--trusted-host", "{INDEX}", "--index-url"]
command = [sys.executable, "-m", "pip", "install", *options, "http://{INDEX}/", "greeting"]
subprocess.run(command, check=True)
import greeting
print(greeting.TEXT)
try:
    socket.getaddrinfo("denied.example", 443)
except socket.gaierror as error:
    print(error.strerror)
"""
SERVE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        first, _, size = self.path[1:].partition("/")
        self.send_response(200 if first == "file" else 404)
        body = b"x" * int(size or 0)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("", 8000), Handler)
print("serving")
server.serve_forever()
"""
# Of a browser to one server.
CONNECTIONS = 6
SIZES = (1, 70_000, 0, 3_000)


@asynccontextmanager
async def open_session_rig(directory: Path) -> AsyncIterator[GatewayRig]:
    if missing := explain_missing():
        pytest.skip(missing)
    async with open_rig(directory) as rig:
        yield rig


@contextmanager
def serve_packages(rig: GatewayRig, directory: Path) -> Iterator[None]:
    """Serve an index at a public address, under a name that the host's resolver knows."""
    write_index(directory)
    rig.names.table[INDEX] = [[PUBLIC]]
    with ExitStack() as stack:
        with rig.world.enter():
            stack.enter_context(serve_directory(directory, PUBLIC, 80))
        yield


@asynccontextmanager
async def serve_sessions(rig: GatewayRig, machine: str) -> AsyncIterator[AsyncClient]:
    """Start a server on the rig's host, where its gateways are then; return its client."""
    # The path of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="slipway-") as name:
        server = Server(Path(name), "--machine", machine, "--network", f"{INDEX}:80")
        with rig.host.enter_with_files():
            server.spawn()
        server.wait_ready()
        try:
            async with AsyncClient(server.path) as client:
                yield client
        finally:
            assert (server.stop(), server.leftovers()) == (0, []), server.log.read_text()


async def wait_for_line(execution: AsyncExecution) -> None:
    async for event in execution:
        if isinstance(event, Output) and b"serving" in event.data:
            return
    raise AssertionError(f"the server has ended: {await execution.wait()}")


async def get_file(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, paths: tuple[str, ...]
) -> list[tuple[int, int]]:
    """Request ``paths`` one behind the other; return the status and size of each answer."""
    writer.write(b"".join(f"GET /{path} HTTP/1.1\r\nHost: page\r\n\r\n".encode() for path in paths))
    answers = []
    for _ in paths:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].split()[0])
        assert (await reader.readexactly(size)) == b"x" * size
        answers.append((int(head.split()[1]), size))
    return answers


async def browse(rig: GatewayRig, host: str, port: int) -> list[list[tuple[int, int]]]:
    """Use a server as a browser does: connections that stay open, one of them without a request."""
    spare = await rig.connect_to_host(host, port)
    opened = [await rig.connect_to_host(host, port) for _ in range(CONNECTIONS)]
    answers = []
    for size in SIZES:
        answers += await asyncio.gather(*(get_file(*each, (f"file/{size}",)) for each in opened))
    # One request behind the other, without waiting (RFC 9112, section 9.3.2).
    answers.append(await get_file(*opened[0], ("file/5", "favicon.ico", "file/70000")))
    answers.append(await get_file(*spare, ("file/2",)))
    return answers


async def test_session_installs_a_package_and_answers_a_browser(
    machine: str, tmp_path: Path
) -> None:
    async with open_session_rig(tmp_path) as rig, serve_sessions(rig, machine) as client:
        network = Network(allow=(f"{INDEX}:80",), publish=(8000,))
        async with client.session("python", network=network) as session:
            with serve_packages(rig, tmp_path / "index"):
                installed = await session.run(INSTALL, **LIMITS)
            execution = await session.start(SERVE, **LIMITS)
            await wait_for_line(execution)
            (port,) = session.ports
            async with asyncio.timeout(PATIENCE["timeout"]):
                answers = await browse(rig, port.host, port.port)
            await execution.cancel()

    assert installed.stdout.splitlines() == ["hello from a package", "Name or service not known"]
    assert installed.network is not None
    denied = [(each.destination, each.port, each.reason) for each in installed.network.denied]
    assert denied == [("denied.example", 0, "not-allowed")]
    each_size = [[(200, size)] for size in SIZES for _ in range(CONNECTIONS)]
    assert answers == [*each_size, [(200, 5), (404, 0), (200, 70_000)], [(200, 2)]]
