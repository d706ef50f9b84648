"""Cost of the board's part of a VMM's start, for each architecture, natively and without KVM.

That is CPU time of two steps: import of the architecture's modules, then load of kernel, initramfs
and tables into new memory. Goal: arm64 takes no more than amd64.
"""

from __future__ import annotations

import argparse
import resource
import statistics
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.languages import find_language
from slipway.vmm.loader import load_files
from slipway.vmm.memory import GuestMemory
from slipway.vmm.spec import BootSpec, Plan
from slipway_initramfs.store.image_store import ImageStore

if TYPE_CHECKING:
    from slipway._run.assets import Assets

MIB = 1 << 20
ROUNDS = 9
# Packages of the architectures by Debian's names.
BOARDS = {"amd64": "x86_64", "arm64": "aarch64"}


def measure_board(architecture: str, assets: Assets, memory_bytes: int) -> tuple[float, float]:
    """Return the CPU seconds of import and of loading, in a new process.

    Both architectures share the modules that this process has imported before.
    """
    files = str(assets.kernel_path), str(assets.initrd)
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(_load_board, architecture, files, memory_bytes).result()


def _load_board(
    architecture: str, files: tuple[str, str], memory_bytes: int
) -> tuple[float, float]:
    began = read_cpu_seconds()
    arch: Any = import_module(f"slipway.vmm.arch.{BOARDS[architecture]}.architecture")
    imported = read_cpu_seconds()
    memory = GuestMemory(arch.place_memory(memory_bytes))
    plan = Plan("console=ttyS0 quiet", 1, serials=1, virtio=1)
    _, initramfs = load_files(arch, memory, BootSpec(files[0], [files[1]], ""))
    arch.write_tables(memory, plan, initramfs)
    return imported - began, read_cpu_seconds() - imported


def read_cpu_seconds() -> float:
    """Return user and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def compare_boards(language: str, memory_bytes: int) -> None:
    """Print the costs of both architectures, measured in turn."""
    assets = {
        name: find_assets(find_language(language), Options(arch=name), ImageStore(), print)
        for name in BOARDS
    }
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in BOARDS}
    for _ in range(ROUNDS):
        for name in BOARDS:
            costs[name].append(measure_board(name, assets[name], memory_bytes))
    for name, pairs in costs.items():
        imports, load = (statistics.median(values) * 1000 for values in zip(*pairs, strict=True))
        kernel = assets[name].kernel_path.stat().st_size / 1e6
        archive = assets[name].initrd.stat().st_size / 1e6
        print(
            f"{name}: {imports:.1f} ms CPU for imports, {load:.1f} ms to load a kernel file of"
            f" {kernel:.1f} MB and an archive of {archive:.1f} MB (medians of {ROUNDS})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--language", default="python")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parsed = parser.parse_args()
    compare_boards(parsed.language, parsed.memory * MIB)


if __name__ == "__main__":
    main()
