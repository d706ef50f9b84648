"""The server in this process, on a real Unix socket, with fake machines."""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from slipway._local.runtime import AsyncRuntime
from slipway._server.peers import AllowList
from slipway._server.server import Server
from slipway._server.settings import ServerSettings
from slipway._server.systemd import Notifier, raise_descriptor_limit
from support.fake_machine import FakeLauncher
from support.users import connect_as

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1024 * 1024


class Served:
    """Running server, and connections to it."""

    def __init__(self, path: Path, launcher: FakeLauncher, server: Server) -> None:
        self.path = path
        self.launcher = launcher
        self.server = server

    def client(self) -> httpx.AsyncClient:
        """Return a new HTTP client."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.path))
        return httpx.AsyncClient(transport=transport, base_url="http://slipway", timeout=30)

    async def connect(
        self, user: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a raw connection, perhaps as another user."""
        if user is None:
            return await asyncio.open_unix_connection(str(self.path))
        return await asyncio.open_unix_connection(sock=connect_as(user, self.path))

    async def answer(self, *pieces: bytes, end: bool = False, user: int | None = None) -> bytes:
        """Send ``pieces``, half-close with ``end``, and return all that the server sends."""
        reader, writer = await self.connect(user)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if end:
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def serve_api(
    launcher: FakeLauncher | None = None,
    *,
    runtime: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Start a server with these settings; ``runtime`` are arguments of AsyncRuntime."""
    launcher = launcher or FakeLauncher()
    options = {"max_machines": 8, "memory_budget": 8192 * MIB, "cpus": 64, **(runtime or {})}
    settings.setdefault("allowed", AllowList(os.geteuid()))
    settings.setdefault("descriptors", raise_descriptor_limit())
    # Not pytest's directory: its path may be too long for a socket, and others cannot enter it.
    with tempfile.TemporaryDirectory(prefix="slipway-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        path = directory / "api"
        notify = Notifier({})
        async with AsyncRuntime(images=launcher, launcher=launcher, **options) as running:
            server = Server(ServerSettings(path, **settings), running, notify)
            task = asyncio.create_task(server.serve())
            ready = asyncio.create_task(server.ready.wait())
            await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            try:
                if task.done():
                    await task
                yield Served(path, launcher, server)
            finally:
                server.stop()
                server.stop()
                await task
        assert not launcher.machines
        assert not list(directory.iterdir())
