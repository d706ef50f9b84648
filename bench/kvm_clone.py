"""Clone against cold boot on our VMM: time from the request to the agent's answer.

The same kernel, initramfs and memory, without a network, with the interface alone (as clones of a
pool wait), and with the interface and the start of a gateway (as a run has them). Meant for the lab
under ``--icount``, where time follows the count of instructions and repeats exactly: ``make
bench-lab``. That lab has no store: kernel, initrd and arguments are named; ``--print`` shows those
of Bash's image.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from process_tree import private_bytes
from slipway._model.network import Network
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.guest_network import GuestNetwork, open_network
from slipway._run.languages import find_language
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec, PortKind
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from slipway.machine.model import Template

TOGETHER = 4
# For each boot. Ticks of both kernels fall into some clones, 4 ms each, and not into others.
CLONES = 7
NETWORK, GATEWAY = "with a network", "with network and gateway"


def show(what: str, arch: str) -> None:
    """Print the files to measure with, as arguments of this program or of the lab."""
    store = ImageStore()
    assets = find_assets(find_language("bash"), Options(arch=arch), store, lambda line: None)
    if what == "files":
        print("--include", assets.kernel_path, "--include", assets.initrd)
        return
    print(
        *("--kernel", shlex.quote(str(assets.kernel_path))),
        *("--initrd", shlex.quote(str(assets.initrd))),
        *("--memory", assets.memory >> 20),
        f"--arguments={shlex.quote(assets.agent.kernel_arguments)}",
    )


async def boot(spec: MachineSpec, network: str) -> float:
    """Return the seconds to the answer of an agent that boots, whose interface is up."""
    async with AsyncExitStack() as undo:
        began = time.monotonic()
        link = open_network(undo, PortKind.VIRTIO) if network else None
        guest = await undo.enter_async_context(await start(spec, link))
        if network == GATEWAY:
            await guest.start_gateway(Network())
        await guest.wait_ready()
        return time.monotonic() - began


async def start(spec: MachineSpec, link: GuestNetwork | None) -> Guest:
    """Start a machine, which has a network if there is a ``link``."""
    if link is not None:
        spec = replace(spec, network=link.machine_end)
    return Guest(await KvmHypervisor().start(spec), network=link)


async def template(spec: MachineSpec, network: str) -> Template:
    """Return a template of a machine whose agent is ready."""
    async with AsyncExitStack() as undo:
        link = open_network(undo, PortKind.VIRTIO) if network else None
        guest = await undo.enter_async_context(await start(spec, link))
        await guest.wait_ready()
        snapshot = await guest.machine.snapshot()
    return await KvmHypervisor().open_template(snapshot)


async def clone(of: Template, network: str) -> float:
    """Return the seconds to the answer of a clone's agent, and until its gateway is started."""
    async with AsyncExitStack() as undo:
        began = time.monotonic()
        link = open_network(undo, PortKind.VIRTIO) if network else None
        machine = await of.clone(network=None if link is None else link.machine_end)
        guest = await undo.enter_async_context(Guest(machine, network=link))
        await guest.adopt_clone()
        if network == GATEWAY:
            await guest.start_gateway(Network())
        return time.monotonic() - began


async def measure_unshared(of: Template) -> float:
    """Return the unshared MiB of one of several clones, after their agents have answered."""
    guests = [Guest(await of.clone()) for _ in range(TOGETHER)]
    try:
        for guest in guests:
            await guest.adopt_clone()
        return statistics.median(private_bytes(guest.machine.pid) for guest in guests) / (1 << 20)
    finally:
        for guest in guests:
            await guest.stop()


async def measure(spec: MachineSpec, rounds: int) -> None:
    """Measure boots and clones, without a network and with one, and print the results."""
    medians = {}
    for network in ("", NETWORK, GATEWAY):
        cold = [await boot(spec, network) for _ in range(rounds)]
        made = await template(spec, network)
        cloned = [await clone(made, network) for _ in range(CLONES * rounds + 1)][1:]
        own = await measure_unshared(made)
        await made.close()
        for name, seconds in (("boot", cold), ("clone", cloned)):
            medians[name, network] = statistics.median(seconds)
            shown = f"{min(seconds):.4f} to {max(seconds):.4f}"
            print(f"{name:<5} {network:<24} {medians[name, network]:.4f} s   ({shown})")
        print(f"unshared memory of one of {TOGETHER} clones: {own:.1f} MiB", flush=True)
    print(f"ratio    {medians['clone', ''] / medians['boot', '']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", type=Path)
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--arguments", default="", help="for the kernel")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--print", choices=("arguments", "files"), help="what to use, and end")
    parser.add_argument("--arch", default=machine_architecture(), help="of what is printed")
    parsed = parser.parse_args()
    if parsed.print:
        show(parsed.print, parsed.arch)
        return
    if parsed.kernel is None or parsed.initrd is None:
        parser.error("--kernel and --initrd are needed")
    memory = parsed.memory << 20
    spec = MachineSpec(parsed.kernel, parsed.initrd, parsed.arguments, memory)
    asyncio.run(measure(spec, parsed.rounds))


if __name__ == "__main__":
    main()
