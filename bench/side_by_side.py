"""Commands side by side: in turn within one run, so that a drifting machine hits all alike."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def interleave(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[float]]:
    """Wall-clock seconds of each command as a whole process, one after the other, ``rounds`` times.

    The first round warms caches and is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, check=False)
            elapsed = time.perf_counter() - began
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr.decode('utf-8', 'replace')}")
            if number:
                seconds[name].append(elapsed)
    return seconds


def table(title: str, seconds: Mapping[str, Sequence[float]], unit: str = "s") -> None:
    """Print minimum, median and maximum of each row, and its median as a multiple of the first."""
    print(f"\n{title}\n{'':<34} {'min':>8} {'median':>8} {'max':>8}   ratio")
    base = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        median = statistics.median(values)
        low, high = min(values), max(values)
        print(f"{name:<34} {low:>8.3f} {median:>8.3f} {high:>8.3f} {median / base:>6.2f}x  {unit}")
