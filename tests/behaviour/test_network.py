"""Network of a guest, whose gateway the test itself plays."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from slipway._model.options import Options
from slipway._run.guest import Guest
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._run.output_sink import OutputTail
from slipway._run.start_machine import start_machine
from support.hypervisors import with_hypervisor
from support.network_peer import ARP, IPV4, NetworkPeer
from support.programs import patient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._run.assets import Assets

ADDRESS = "198.18.1.7"
NAMES = {"allowed.test": bytes(map(int, ADDRESS.split(".")))}
RESOLVE = (
    "getent ahostsv4 allowed.test | head -n 1 | cut -d' ' -f1; getent hosts denied.test; echo $?"
)


@pytest.fixture
def assets(machine: str, bash: Assets) -> Assets:
    return with_hypervisor(bash, machine)


@asynccontextmanager
async def boot(
    assets: Assets, peer: NetworkPeer | None, *, template: bool = False
) -> AsyncIterator[Guest]:
    network = None if peer is None else peer.theirs.fileno()
    machine = await start_machine(assets, Options(), template=template, network=network)
    async with Guest(machine) as guest:
        await guest.wait_ready()
        yield guest


async def run(guest: Guest, source: str) -> list[str]:
    """Return the lines that a program prints."""
    tail = OutputTail(65536)
    job = JobRequest(find_language("bash"), source.encode(), Options(**patient((), (), {})))
    report = await guest.run(job, tail)
    assert report.succeeded, tail.data
    return tail.data.decode().splitlines()


async def test_machine_without_a_network_has_neither_interface_nor_drivers(assets: Assets) -> None:
    async with boot(assets, None) as guest:
        printed = await run(
            guest,
            "echo $(ls /sys/class/net); grep -c net /proc/modules; getent hosts a.test; echo $?",
        )

    assert printed == ["lo", "0", "2"]


async def test_guest_resolves_names_and_is_refused_connections(assets: Assets) -> None:
    with NetworkPeer(NAMES) as peer:
        async with boot(assets, peer) as guest:
            frames_at_ready = list(peer.frames)
            printed = await run(
                guest,
                f"""{RESOLVE}
for address in {ADDRESS} 10.0.0.1; do
    (exec 3<>/dev/tcp/$address/80) 2>&1 | grep -o 'Connection refused' | head -n 1
done
dd if=/dev/zero bs=65000 count=1 status=none >/dev/udp/198.18.0.1/53
cat /sys/class/net/eth0/mtu
""",
            )

    assert frames_at_ready == []
    assert printed == [ADDRESS, "2", "Connection refused", "Connection refused", "65520"]
    assert peer.count(ARP) == 0
    assert peer.count(IPV4) == len(peer.frames)
    assert max(map(len, peer.frames)) == 14 + 20 + 8 + 65000


async def test_clone_has_the_interface_of_its_template_and_a_gateway_of_its_own(
    assets: Assets,
) -> None:
    with NetworkPeer(NAMES) as first, NetworkPeer(NAMES) as second:
        async with boot(assets, first, template=True) as original:
            snapshot = await original.machine.snapshot()
        async with await assets.hypervisor.open_template(snapshot) as template:
            machine = await template.clone(network=second.theirs.fileno())
            async with Guest(machine) as clone:
                await clone.adopt_clone()
                printed = await run(clone, RESOLVE)

    assert printed == [ADDRESS, "2"]
    assert first.frames == []
    # QEMU would announce the interface of a clone, by reverse ARP.
    assert 0 < second.count(IPV4) == len(second.frames)
