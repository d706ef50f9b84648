"""Agents whose only port is the network: the gateway joins a stream of the host to them."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from slipway._model.options import Options
from slipway._run.guest import Guest
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._run.output_sink import OutputTail
from slipway.machine.gateway_handle import GatewayHandle, GatewaySettings, create_link
from slipway.machine.model import MachineSpec, PortKind
from support.hypervisors import with_hypervisor
from support.programs import patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from slipway._run.assets import Assets
    from slipway.machine.model import Machine

LARGE = 3_000_000
# The agent's port, as a program may try to use it.
INTRUDE = """
for address in 198.18.0.2 127.0.0.1; do
    exec 3<>/dev/tcp/$address/1 && timeout 5 cat <&3 | wc -c
done 2>/dev/null
getent hosts example.com; echo $?
(exec 3<>/dev/tcp/198.18.0.1/80) 2>&1 | grep -o 'Connection refused' | head -n 1
"""


@pytest.fixture
def assets(machine: str, bash: Assets) -> Assets:
    return with_hypervisor(bash, machine)


@asynccontextmanager
async def joined(start: Callable[[int], Awaitable[Machine]]) -> AsyncIterator[Guest]:
    """A guest of the machine that ``start`` makes on a link, with the port that its gateway joins.

    Nothing is allowed but the agent's port.
    """
    async with AsyncExitStack() as undo:
        ours, theirs = socket.socketpair()
        gateway_end, machine_end = create_link()
        with theirs, gateway_end, machine_end:
            gateway = GatewayHandle.start(
                GatewaySettings(), gateway_end.fileno(), agent=theirs.fileno()
            )
            await undo.enter_async_context(gateway)
            machine = await start(machine_end.fileno())
            await undo.enter_async_context(machine)
        await machine.use_stream(ours)
        yield Guest(machine)


@asynccontextmanager
async def booted(assets: Assets, *, template: bool = False) -> AsyncIterator[Guest]:
    async def start(link: int) -> Machine:
        spec = MachineSpec(
            kernel=assets.kernel_path,
            initrd=assets.initrd,
            kernel_arguments=assets.agent.kernel_arguments,
            memory_bytes=assets.memory,
            port=PortKind.TCP,
            template=template,
            network=link,
        )
        return await assets.hypervisor.start(spec)

    async with joined(start) as guest:
        await guest.wait_ready()
        yield guest


async def run(guest: Guest, source: str) -> bytes:
    """Return what a program prints."""
    tail = OutputTail(2 * LARGE)
    job = JobRequest(find_language("bash"), source.encode(), Options(**patient((), (), {})))
    report = await guest.run(job, tail)
    assert report.succeeded, tail.data[-1000:]
    return bytes(tail.data)


async def test_jobs_run_over_the_network_alone(assets: Assets) -> None:
    async with booted(assets) as guest:
        assert guest.ready is not None
        capabilities = guest.ready.capabilities
        greeting = await run(guest, "echo hello")
        flood = await run(guest, f"head -c {LARGE} /dev/zero | tr '\\0' x")

    assert "port.tcp" in capabilities
    assert greeting == b"hello\n"
    assert flood == b"x" * LARGE


async def test_program_gets_nothing_from_the_agents_port_and_has_no_network(
    assets: Assets,
) -> None:
    async with booted(assets) as guest:
        printed = await run(guest, INTRUDE)
        greeting = await run(guest, "echo still here")

    assert printed.split(b"\n") == [b"0", b"2", b"Connection refused", b""]
    assert greeting == b"still here\n"


async def test_gateway_of_a_clone_takes_the_port_over(assets: Assets) -> None:
    async with booted(assets, template=True) as original:
        await run(original, "echo warm")
        snapshot = await original.machine.snapshot()
    async with await assets.hypervisor.open_template(snapshot) as template:

        async def start(link: int) -> Machine:
            return await template.clone(network=link)

        for word in ("one", "two"):
            async with joined(start) as clone:
                await clone.adopt_clone()
                assert await run(clone, f"echo {word}") == f"{word}\n".encode()
