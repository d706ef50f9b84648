"""Whole commands as typed: vmm-run of each language's hello world, cold and from a snapshot.

In turn within one run. For each row also the CPU time of the command and all its machines, which a
busy host distorts less. Images and snapshots that the default store lacks are made first.
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
from dataclasses import dataclass, field
from pathlib import Path

from slipway_initramfs.languages import catalogue

SCRIPTS = Path(sys.executable).parent
LANGUAGES = ("bash", "python", "javascript", "c", "c++", "go", "rust")
WAYS = {"cold": ("--cold",), "snapshot": ()}


@dataclass(slots=True)
class Row:
    """Wall-clock and CPU seconds of one language by one way."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure(command: list[str]) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of a command with all its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr.decode('utf-8', 'replace')}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--machine", default="auto")
    parser.add_argument("languages", nargs="*", default=LANGUAGES)
    parsed = parser.parse_args()
    machine = ["--machine", parsed.machine]
    subprocess.run(
        [SCRIPTS / "slipway", "image", "build", "--snapshot", *machine, *parsed.languages],
        check=True,
    )
    rows = {(name, way): Row() for name in parsed.languages for way in WAYS}
    with tempfile.TemporaryDirectory() as directory:
        # The first round warms caches and is not counted.
        for number in range(parsed.rounds + 1):
            for (name, way), row in rows.items():
                language = catalogue.find_language(name)
                source = Path(directory, f"sample{language.suffixes[0]}")
                source.write_text(language.sample)
                command = [SCRIPTS / "vmm-run", *machine, *WAYS[way], source]
                wall, cpu = measure([os.fspath(part) for part in command])
                if number:
                    row.wall.append(wall)
                    row.cpu.append(cpu)
    print(f"\nwhole command, {parsed.rounds} rounds in turn: seconds, median (least to most), CPU")
    for (name, way), row in rows.items():
        wall_median, cpu_median = statistics.median(row.wall), statistics.median(row.cpu)
        spread = f"({min(row.wall):.2f} to {max(row.wall):.2f})"
        print(f"{name:<12} {way:<10} {wall_median:7.2f} {spread:<18} {cpu_median:7.2f}")


if __name__ == "__main__":
    main()
