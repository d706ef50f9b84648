"""Bare QEMU to a trivial /init, against vmm-run of a Python hello world.

Whole processes, alternating, the same kernel, board and host. Goal: at most 1.5 times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bare import write_initrd
from side_by_side import interleave, table
from slipway_initramfs.store.image_store import ImageStore

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--file", type=Path, default=HERE.parent / "examples" / "hello.py")
    parsed = parser.parse_args()
    kernel = ImageStore().kernel()
    if kernel is None:
        sys.exit("make the image first: slipway image build python")
    program = [str(Path(sys.executable).with_name("vmm-run")), "--no-server", str(parsed.file)]
    with tempfile.TemporaryDirectory() as directory:
        initrd = Path(directory) / "bare.cpio"
        write_initrd(initrd)
        seconds = interleave(
            {
                "bare QEMU, trivial /init": [
                    *(sys.executable, str(HERE / "bare.py")),
                    *(str(kernel.path), str(initrd)),
                ],
                f"vmm-run {parsed.file.name}": program,
            },
            parsed.rounds,
        )
    table(f"whole process, {parsed.rounds} rounds", seconds)
    parts: dict[str, list[float]] = {}
    for _ in range(3):
        done = subprocess.run([*program, "--json"], capture_output=True, check=True)
        for name, value in json.loads(done.stdout)["timing"].items():
            parts.setdefault(name, []).append(value)
    print("\nwhere vmm-run's time goes (medians of 3, by its own clock):")
    print("  ".join(f"{name} {statistics.median(values):.3f}" for name, values in parts.items()))


if __name__ == "__main__":
    main()
