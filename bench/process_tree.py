"""What a command costs together with all that it starts: time, processor time, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INTERVAL = 0.02
"""Seconds between two looks at the memory."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run; memory in bytes.

    ``processor`` is user and system seconds, ``largest`` the highest peak of a single process,
    ``together`` the highest sum of the resident sets of all processes that was seen at one time. It
    counts shared pages once for each.
    """

    wall: float
    processor: float
    largest: int
    together: int


def measure(command: Sequence[str]) -> Cost:
    """Run ``command``, which has to succeed; nothing that it prints is shown."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    over = threading.Event()
    largest = together = 0

    def watch() -> None:
        nonlocal largest, together
        while not over.wait(INTERVAL):
            seen = list(_memory(process.pid))
            largest = max([largest, *(peak for _, peak in seen)])
            together = max(together, sum(resident for resident, _ in seen))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert process.stderr is not None
        said = process.stderr.read()
        # Not subprocess's own wait: only this one tells what was used. Its figure for memory is of
        # no use, as it begins with what the parent had when it forked.
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        over.set()
        watcher.join()
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} failed:\n{said.decode('utf-8', 'replace')}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, largest, together)


def private_bytes(pid: int) -> int:
    """Bytes of memory that only the process ``pid`` has."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    fields = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("Private_"))
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Private_Clean", "Private_Dirty"))


def _memory(top: int) -> Iterator[tuple[int, int]]:
    """Give the resident set and its peak so far of a process and each of its descendants."""
    waiting = [top]
    while waiting:
        directory = Path(f"/proc/{waiting.pop()}")
        try:
            status = (directory / "status").read_text("utf-8", "replace")
            for thread in (directory / "task").iterdir():
                waiting += map(int, (thread / "children").read_text("ascii").split())
        except OSError:
            continue  # it has ended meanwhile
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmHWM" in fields:  # not that of one that has ended and waits to be reaped
            resident, peak = (int(fields[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
            yield resident, peak
