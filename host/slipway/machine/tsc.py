"""The rate of this host's time stamp counter.

Under QEMU's TCG the guest reads the host's TSC but has no timer that it could calibrate it against
without hanging now and then, so the rate goes on its command line.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from pathlib import Path

# rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
# Long enough for three correct digits: the kernel refines nothing, but timekeeping only needs ppm
# where a run lasts for minutes.
_SPAN = 0.05


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
        begin, ticks = time.perf_counter_ns(), read()
        time.sleep(_SPAN)
        ticks, elapsed = read() - ticks, time.perf_counter_ns() - begin
        del read, buffer
    return int(ticks * 1_000_000 // elapsed)


def tsc_khz(cache: Path) -> int:
    """The rate in kHz, measured once per boot of the host and kept in the file ``cache``."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    try:
        known, khz = cache.read_text("ascii").split()
        if known == boot and khz.isdigit():
            return int(khz)
    except (OSError, ValueError):
        pass
    khz_now = measure_khz()
    try:
        temporary = cache.with_name(f"{cache.name}.{time.monotonic_ns()}")
        temporary.write_text(f"{boot} {khz_now}\n", "ascii")
        temporary.replace(cache)
    except OSError:
        pass  # measured again next time
    return khz_now
