"""Debian's kernel against the small one: to a trivial /init, and to the output of Python.

In turn within one run, processor time of QEMU and of whatever started it (getrusage(2)): on a busy
host it says more than the clock does. Both kernels have to be in the user's store. The choice of
the store is set before each run, and restored at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bare import write_initrd
from slipway_initramfs.kernel_build import build_kernel
from slipway_initramfs.store.image_store import ImageStore
from slipway_initramfs.store.records import KERNELS

HERE = Path(__file__).parent
Sample = tuple[float, float]


def run(command: list[str]) -> Sample:
    """Return processor time and clock time of a command with its children, in seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    elapsed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, elapsed


def show(name: str, samples: list[Sample]) -> None:
    """Print minimum, median and maximum of the processor time, and the median by the clock."""
    used, clock = ([sample[part] for sample in samples] for part in (0, 1))
    middle = statistics.median(used)
    print(
        f"{name:<40} {min(used):7.2f} {middle:7.2f} {max(used):7.2f} s of processor,"
        f" {statistics.median(clock):6.2f} s by the clock"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file", type=Path, default=HERE.parent / "examples" / "hello.py")
    parsed = parser.parse_args()
    store = ImageStore()
    own = build_kernel(store).architecture
    kernels = {name: store.find_kernel(own, name) for name in KERNELS}
    missing = [name for name, kernel in kernels.items() if kernel is None]
    if missing:
        sys.exit(f"no kernel {' and '.join(missing)}: slipway kernel build, slipway kernel use")
    former = store.kernel_choice(own)
    program = str(Path(sys.executable).with_name("vmm-run"))
    samples: dict[tuple[str, str], list[Sample]] = {}
    try:
        with tempfile.TemporaryDirectory() as directory:
            initrd = Path(directory) / "bare.cpio"
            write_initrd(initrd)
            for number in range(parsed.rounds + 1):
                for name, kernel in kernels.items():
                    assert kernel is not None
                    store.choose_kernel(name, own)
                    bare = [sys.executable, str(HERE / "bare.py"), str(kernel.path), str(initrd)]
                    cold = [program, "--cold", "--machine", "qemu", str(parsed.file)]
                    for what, command in (("trivial /init", bare), (parsed.file.name, cold)):
                        sample = run(command)
                        if number:  # the first warms the host's caches
                            samples.setdefault((what, name), []).append(sample)
    finally:
        store.choose_kernel(former or KERNELS[-1], own)
    print(f"{os.cpu_count()} processors, {parsed.rounds} rounds; min, median, max")
    for what, name in sorted(samples):
        show(f"{what}, {name}", samples[what, name])


if __name__ == "__main__":
    main()
