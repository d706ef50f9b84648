"""What a command costs together with all that it starts: time, processor time, memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERVAL = 0.02
"""Seconds between two looks at the memory."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run; memory in bytes.

    ``processor`` is user and system seconds, ``largest`` the peak of the largest single process by
    the kernel's account, ``together`` the highest sum of the resident sets of all processes that
    was seen at one time. That counts shared pages once for each.
    """

    wall: float
    processor: float
    largest: int
    together: int


def measure(command: Sequence[str]) -> Cost:
    """Run ``command``, which has to succeed; its output goes where ours does not."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    over = threading.Event()
    highest = 0

    def watch() -> None:
        nonlocal highest
        while not over.wait(INTERVAL):
            highest = max(highest, _resident(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert process.stderr is not None
        said = process.stderr.read()
        # Not subprocess's own wait: only this one tells what was used.
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        over.set()
        watcher.join()
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)
    largest = usage.ru_maxrss << 10
    return Cost(wall, usage.ru_utime + usage.ru_stime, largest, max(highest, largest))


def _resident(top: int) -> int:
    """Bytes that a process and its descendants have in memory."""
    total = 0
    waiting = [top]
    while waiting:
        directory = Path(f"/proc/{waiting.pop()}")
        try:
            total += int((directory / "statm").read_text("ascii").split()[1]) * _PAGE
            for thread in (directory / "task").iterdir():
                waiting += map(int, (thread / "children").read_text("ascii").split())
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return total
