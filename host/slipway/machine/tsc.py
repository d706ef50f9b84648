"""Rate of this host's time stamp counter (TSC).

A guest of QEMU's TCG reads the host's TSC, but has no timer to calibrate the TSC against without
hanging now and then. Therefore the rate goes on its command line.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from typing import TYPE_CHECKING

from slipway._util.once_per_boot import measure_once_per_boot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
# Long enough for three correct digits. The kernel does not refine the rate; a higher precision only
# matters for runs of minutes.
_SPAN = 0.05
_READINGS = 10


def measure_khz() -> int:
    """Return the rate in kHz, measured over 50 ms.

    Raises:
        OSError: the host forbids executable memory.
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
    """Return clock (ns) and counter at one moment: the closest of a few readings.

    Between both reads, a loaded host may run another process for as long as the whole span.
    """
    readings = []
    for _ in range(_READINGS):
        before, ticks, after = time.perf_counter_ns(), read(), time.perf_counter_ns()
        readings.append((after - before, (before + after) // 2, ticks))
    _, clock, ticks = min(readings)
    return clock, ticks


def find_tsc_khz(cache: Path) -> int:
    """Return the rate in kHz, measured once per boot of the host and kept in the file ``cache``."""
    return measure_once_per_boot(cache, measure_khz)
