"""Gateway of a run: bytes stay right in both directions."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

import pytest

from slipway import AsyncRuntime, Network
from support.gateway_processes import find_gateways
from support.programs import PATIENCE

pytestmark = pytest.mark.usefixtures("bash")

LIMITS: dict[str, Any] = PATIENCE
SIZE = 8 << 20


async def test_transfers_both_ways_are_right(machine: str) -> None:
    data = os.urandom(SIZE)
    received: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.write_eof()
        received.set_result(hashlib.sha256(await reader.read(-1)).hexdigest())
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server, AsyncRuntime(machine=machine) as runtime:
        port = server.sockets[0].getsockname()[1]
        result = await runtime.run(
            f"""exec 3<>/dev/tcp/host/{port}
cat <&3 >got; sha256sum <got | cut -d ' ' -f 1
cat got got >&3; exec 3>&-""",
            "bash",
            network=Network(allow=(f"host:{port}",)),
            **LIMITS,
        )

    digests = [hashlib.sha256(data * times).hexdigest() for times in (1, 2)]
    assert [*result.stdout.splitlines(), await received] == digests
    assert result.network is not None
    assert result.network.bytes_to_guest == SIZE
    assert result.network.bytes_from_guest == 2 * SIZE
    assert find_gateways(os.getpid()) == []
