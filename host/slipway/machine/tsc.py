"""The rate of this host's time stamp counter.

Under QEMU's TCG the guest reads the host's TSC but has no timer that it could calibrate it against
without hanging now and then, so the rate goes on its command line.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from typing import TYPE_CHECKING

from slipway._util.once_per_boot import once_per_boot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
# Long enough for three correct digits: the kernel refines nothing, but timekeeping only needs ppm
# where a run lasts for minutes.
_SPAN = 0.05
_READINGS = 10


def measure_khz() -> int:
    """The rate in kHz, from 50 ms of looking at it.

    Raises:
        OSError: the host forbids memory that is executable.
    """
    with mmap.mmap(
        -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ) as page:
        page.write(_RDTSC)
        buffer = (ctypes.c_char * mmap.PAGESIZE).from_buffer(page)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(buffer))
        begin, first = _read_simultaneously(read)
        time.sleep(_SPAN)
        end, last = _read_simultaneously(read)
        del read, buffer
    return (last - first) * 1_000_000 // (end - begin)


def _read_simultaneously(read: Callable[[], int]) -> tuple[int, int]:
    """Clock (ns) and counter at one moment: the closest of a few readings.

    Between the two a loaded host may let another process run for as long as the whole span.
    """
    readings = []
    for _ in range(_READINGS):
        before, ticks, after = time.perf_counter_ns(), read(), time.perf_counter_ns()
        readings.append((after - before, (before + after) // 2, ticks))
    _, clock, ticks = min(readings)
    return clock, ticks


def find_tsc_khz(cache: Path) -> int:
    """The rate in kHz, measured once per boot of the host and kept in the file ``cache``."""
    return once_per_boot(cache, measure_khz)
