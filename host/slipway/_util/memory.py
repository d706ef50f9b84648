"""Free memory of this host, and memory of a process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def read_free_memory() -> int:
    """Return the bytes available to machines: free on the host, within limits of our cgroups."""
    import psutil

    free: int = psutil.virtual_memory().available
    for line in Path("/proc/self/cgroup").read_text("ascii").splitlines():
        # cgroup v2 is hierarchy 0; the limit of a level holds for all levels below (cgroups(7)).
        if line.startswith("0::/"):
            group = Path("/sys/fs/cgroup") / line[4:]
            for level in (group, *group.parents):
                with suppress(OSError, ValueError):  # "max", or a missing file: no limit
                    limit = int((level / "memory.max").read_text("ascii"))
                    used = int((level / "memory.current").read_text("ascii"))
                    free = min(free, max(limit - used, 0))
    return free


def read_unshared_bytes(pid: int, most: int) -> int:
    """Return the unshared bytes of the process ``pid``, or ``most`` if they are unknown."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:  # the process has ended, or is not dumpable and we are not root
        return most
