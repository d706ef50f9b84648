"""A guest's gateway in a run: bytes stay right, and its end is not the run's."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from typing import Any

import pytest

from slipway import AsyncRuntime, Network
from slipway._model.events import Output
from support.gateway_processes import find_gateways
from support.programs import PATIENCE
from support.waiting import wait_until

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


async def test_run_goes_on_without_its_gateway_and_the_result_says_so(machine: str) -> None:
    async with AsyncRuntime(machine=machine) as runtime:
        execution = await runtime.start(
            "echo started; read line; echo $line",
            "bash",
            stdin=None,
            network=Network(),
            **LIMITS,
        )
        output = b""
        async for event in execution:
            if not isinstance(event, Output):
                continue
            output += event.data
            if output == b"started\n":
                for process in find_gateways(os.getpid()):
                    os.kill(process, signal.SIGKILL)
                await wait_until(lambda: find_gateways(os.getpid()) == [], "the gateway is killed")
                await execution.stdin.write(b"goes on\n")
        result = await execution.wait()

    assert output == b"started\ngoes on\n"
    assert result.network is not None
    assert result.network.failed
