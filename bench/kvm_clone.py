"""Clone against cold boot on our VMM: time from the request to the agent's answer.

The same kernel, initramfs and memory. Meant for the lab under ``--icount``, where time follows the
count of instructions and repeats exactly: ``make bench-lab``. That lab has no store: kernel, initrd
and arguments are named; ``--print`` shows those of Bash's image.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from process_tree import private_bytes
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.languages import find_language
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from slipway.machine.model import Template

TOGETHER = 4


def show(what: str) -> None:
    """Print the files to measure with, as arguments of this program or of the lab."""
    store = ImageStore()
    assets = find_assets(find_language("bash"), Options(), store, lambda line: None)
    if what == "files":
        print("--include", assets.kernel_path, "--include", assets.initrd)
        return
    print(
        *("--kernel", shlex.quote(str(assets.kernel_path))),
        *("--initrd", shlex.quote(str(assets.initrd))),
        *("--memory", assets.memory >> 20),
        f"--arguments={shlex.quote(assets.agent.kernel_arguments)}",
    )


async def boot(spec: MachineSpec) -> float:
    """Return the seconds to the answer of an agent that boots."""
    began = time.monotonic()
    guest = Guest(await KvmHypervisor().start(spec))
    try:
        await guest.wait_ready()
        return time.monotonic() - began
    finally:
        await guest.stop()


async def template(spec: MachineSpec) -> Template:
    """Return a template of a machine whose agent is ready."""
    guest = Guest(await KvmHypervisor().start(spec))
    try:
        await guest.wait_ready()
        snapshot = await guest.machine.snapshot()
    finally:
        await guest.stop()
    return await KvmHypervisor().open_template(snapshot)


async def clone(of: Template) -> float:
    """Return the seconds to the answer of a clone's agent."""
    began = time.monotonic()
    guest = Guest(await of.clone())
    try:
        await guest.adopt_clone()
        return time.monotonic() - began
    finally:
        await guest.stop()


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
    """Measure both, and print the results."""
    cold = [await boot(spec) for _ in range(rounds)]
    made = await template(spec)
    cloned = [await clone(made) for _ in range(rounds + 1)][1:]
    own = await measure_unshared(made)
    await made.close()
    for name, seconds in (("boot", cold), ("clone", cloned)):
        shown = " ".join(f"{value:.4f}" for value in seconds)
        print(f"{name:<8} {statistics.median(seconds):.4f} s   ({shown})")
    print(f"ratio    {statistics.median(cloned) / statistics.median(cold):.3f}")
    print(f"unshared memory of one of {TOGETHER} clones: {own:.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", type=Path)
    parser.add_argument("--initrd", type=Path)
    parser.add_argument("--arguments", default="", help="for the kernel")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--print", choices=("arguments", "files"), help="what to use, and end")
    parsed = parser.parse_args()
    if parsed.print:
        show(parsed.print)
        return
    if parsed.kernel is None or parsed.initrd is None:
        parser.error("--kernel and --initrd are needed")
    memory = parsed.memory << 20
    spec = MachineSpec(parsed.kernel, parsed.initrd, parsed.arguments, memory)
    asyncio.run(measure(spec, parsed.rounds))


if __name__ == "__main__":
    main()
