"""Cost of a VMM before its guest's first instruction: CPU time and memory, natively.

Works on each host where /dev/kvm opens, usable or not, since no guest code is measured. Goals: 15
ms of CPU time for 256 MiB; 20 MB resident beyond the guest's memory, of which 8 MB unshared with
ten VMMs.
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
from slipway.machine.kvm_hypervisor import KvmHypervisor
from slipway.machine.model import MachineSpec
from slipway.vmm.kvm import usability
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterator

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


async def measure(spec: MachineSpec) -> None:
    """Start machines in turn, then ten at once, and print their costs."""
    seconds = []
    for _ in range(7):
        machine = await KvmHypervisor().start(spec)
        seconds.append(machine.start_cpu_seconds)
        await machine.stop()
    cpu = statistics.median(seconds[1:])
    print(f"CPU from the process's start to before KVM_RUN: {cpu * 1000:.1f} ms (median of 6)")
    machines = await asyncio.gather(*(KvmHypervisor().start(spec) for _ in range(TOGETHER)))
    sizes = [measure_beyond_guest(machine.pid, spec.memory_bytes) for machine in machines]
    for machine in machines:
        await machine.stop()
    resident, private = (statistics.median(values) for values in zip(*sizes, strict=True))
    print(f"of ten at once, beyond the guest's memory: {resident:.1f} MB resident each,")
    print(f"of which {private:.1f} MB unshared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--language", default="python")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parsed = parser.parse_args()
    language = find_language(parsed.language)
    assets = find_assets(language, Options(), ImageStore(), print)
    arguments = assets.agent.kernel_arguments
    spec = MachineSpec(assets.kernel_path, assets.initrd, arguments, parsed.memory * MIB)
    with patch.object(usability, "examine", lambda state: (True, "not asked for")):
        asyncio.run(measure(spec))


if __name__ == "__main__":
    main()
