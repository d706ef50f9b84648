"""Memory of this host: what is left for machines, and what one of them has."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def free_memory() -> int:
    """Bytes that machines can have now: what the host has free, within our cgroups' limits."""
    import psutil

    free: int = psutil.virtual_memory().available
    for line in Path("/proc/self/cgroup").read_text("ascii").splitlines():
        # cgroup v2 is hierarchy 0; the limit of each level holds for all below it (cgroups(7)).
        if line.startswith("0::/"):
            group = Path("/sys/fs/cgroup") / line[4:]
            for level in (group, *group.parents):
                with suppress(OSError, ValueError):  # "max", or no such file: no limit here
                    limit = int((level / "memory.max").read_text("ascii"))
                    used = int((level / "memory.current").read_text("ascii"))
                    free = min(free, max(limit - used, 0))
    return free


def unshared_bytes(pid: int, most: int) -> int:
    """Bytes that the process ``pid`` has for itself; ``most`` where the kernel does not tell."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.Error:  # it has ended, or is not dumpable and we are not root
        return most
