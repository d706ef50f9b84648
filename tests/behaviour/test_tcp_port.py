"""Agents whose only port is the network: the gateway joins a stream of the host to them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from slipway import AsyncRuntime, Network
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway._snapshots.create import create_snapshot
from slipway_initramfs.store.image_store import ImageStore
from support.programs import PATIENCE
from support.waiting import wait_until
from support.writable_stores import writable_store

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("bash")

LIMITS: dict[str, Any] = PATIENCE
# The lab's file system is small, and a budget by default is a part of it.
SNAPSHOT_BUDGET = 1 << 30
# The agent's port, as a program may try to use it, and other destinations.
INTRUDE = """
for address in 198.18.0.2 127.0.0.1; do
    exec 3<>/dev/tcp/$address/1 && timeout 5 cat <&3 | wc -c
done 2>/dev/null
getent hosts example.com; echo $?
(exec 3<>/dev/tcp/198.18.0.1/80) 2>&1 | grep -o 'Connection refused' | head -n 1
echo kept >kept
"""


async def test_session_and_fork_run_over_the_network_alone_and_have_no_network(
    machine: str,
) -> None:
    async with (
        AsyncRuntime(machine=machine, cold=True, cpus=2, memory_budget=2 << 30) as runtime,
        runtime.session("bash", port="tcp") as session,
    ):
        result = await session.run(INTRUDE, **LIMITS)
        async with await session.fork() as fork:
            forked = await fork.run("cat kept", **LIMITS)
            again = await session.run("cat kept", **LIMITS)

    assert result.stdout.split("\n") == ["0", "2", "Connection refused", ""]
    assert (result.network, result.provenance.port) == (None, "tcp")
    assert [one.stdout for one in (forked, again)] == ["kept\n"] * 2


async def test_idle_clone_gets_the_rules_of_its_run(
    machine: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"from the host\n")
        writer.close()

    store: Path = writable_store("bash", tmp_path_factory.getbasetemp() / "pool-store")
    # The pool would make it as well; on a slow host it then takes the demand for over by then.
    options, images = Options(machine=machine, port="tcp"), ImageStore(store)
    assets = find_assets(find_language("bash"), options, images, print)
    await create_snapshot(assets, options, images, print, SNAPSHOT_BUDGET)
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    source = f"exec 3<>/dev/tcp/host/{port} && cat <&3"
    async with server, AsyncRuntime(store=store, machine=machine, pool=1) as runtime:
        without = await runtime.run(source, "bash", port="tcp", **LIMITS)
        await wait_until(lambda: runtime.idle, "a clone waits in the pool")
        network = Network(allow=(f"host:{port}",))
        result = await runtime.run(source, "bash", port="tcp", network=network, **LIMITS)

    assert (without.ok, without.network) == (False, None)
    assert (result.stdout, result.provenance.start) == ("from the host\n", "pool")
    assert result.network is not None
    assert result.network.connections == 1
