"""Cost of a VMM before its guest's first instruction: CPU time and memory, natively.

Of VMMs that start alone, as for ``vmm-run``, and in turn of those that a booter starts, as for a
runtime. Works on each host where /dev/kvm opens, usable or not, since no guest code is measured.
Goals: 8 ms of CPU time from the second boot of a booter on; 20 MB resident beyond the guest's
memory, of which 8 MB unshared with ten VMMs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway.machine.kvm_booter import KvmBooter
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec
from slipway.vmm.kvm import usability
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway.machine.kvm import KvmMachine

MIB = 1 << 20
TOGETHER = 10


def read_mappings(pid: int) -> Iterator[dict[str, int]]:
    """Return the sizes of each mapping of a process, in KiB, as in /proc/PID/smaps."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text("utf-8").splitlines():
        name, _, rest = line.partition(":")
        if " " in name:  # a new mapping begins
            if sizes:
                yield sizes
            sizes = {}
        elif rest.endswith(" kB"):
            sizes[name] = int(rest[:-3])
    yield sizes


def measure_beyond_guest(pid: int, memory: int) -> tuple[float, float]:
    """Return resident and private MB of the VMM, without the mapping of the guest's memory."""
    own = [sizes for sizes in read_mappings(pid) if sizes["Size"] < memory // 1024]
    resident = sum(sizes["Rss"] for sizes in own)
    private = sum(sizes["Private_Dirty"] + sizes["Private_Clean"] for sizes in own)
    return resident * 1024 / 1e6, private * 1024 / 1e6


class Alone:
    """Starter without a booter."""

    async def start(self, spec: MachineSpec, hypervisor: KvmHypervisor) -> KvmMachine:
        """Start a VMM."""
        return await hypervisor.start(spec)


async def measure(spec: MachineSpec, rounds: int) -> None:
    """Start machines in turn, then ten at once, and print their costs."""
    booter = KvmBooter()
    starters: dict[str, Alone | KvmBooter] = {"alone": Alone(), "by a booter": booter}
    seconds: dict[str, list[float]] = {name: [] for name in starters}
    for _ in range(rounds + 1):
        for name, starter in starters.items():
            machine = await starter.start(spec, KvmHypervisor())
            seconds[name].append(machine.start_cpu_seconds * 1000)
            await machine.stop()
    print("CPU from the process's start, or from the fork, to before KVM_RUN, in ms:")
    for name, (first, *later) in seconds.items():
        median = statistics.median(later)
        print(
            f"{name:<11} {median:5.1f} (median of {rounds}; {min(later):.1f} to {max(later):.1f})"
            f", first {first:.1f}"
        )
    for name, starter in starters.items():
        await measure_memory(name, starter, spec)
    await booter.close()


async def measure_memory(name: str, starter: Alone | KvmBooter, spec: MachineSpec) -> None:
    """Start ten machines at once, and print the median of their memory."""
    starts = (starter.start(spec, KvmHypervisor()) for _ in range(TOGETHER))
    machines = await asyncio.gather(*starts)
    sizes = [measure_beyond_guest(machine.pid, spec.memory_bytes) for machine in machines]
    for machine in machines:
        await machine.stop()
    resident, private = (statistics.median(values) for values in zip(*sizes, strict=True))
    print(
        f"{name:<11} of ten at once, beyond the guest's memory: {resident:.1f} MB resident each,"
        f" of which {private:.1f} MB unshared"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--language", default="python")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=9)
    parsed = parser.parse_args()
    language = find_language(parsed.language)
    assets = find_assets(language, Options(), ImageStore(), print)
    arguments = assets.agent.kernel_arguments
    spec = MachineSpec(assets.kernel_path, assets.initrd, arguments, parsed.memory * MIB)
    with patch.object(usability, "examine", lambda state: (True, "not asked for")):
        asyncio.run(measure(spec, parsed.rounds))


if __name__ == "__main__":
    main()
