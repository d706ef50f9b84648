"""Limits of one machine on the host: a cgroup, or else resource limits of its process."""

from __future__ import annotations

import asyncio
import atexit
import os
import resource
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._model.host_use import HostUse
from slipway._util.errors import HostError
from slipway._util.units import format_mib
from slipway.jail.cgroup import GroupLimits
from slipway.jail.cgroup_place import GroupPlace, open_place
from slipway.machine.gateway.bounds import MAX_MEMORY

if TYPE_CHECKING:
    from slipway.jail.cgroup import MachineGroup
    from slipway.machine.model import Hypervisor, MachineSpec

# What a process maps privately counts, used or not: stacks of threads, heaps, interpreters.
_DATA_SLACK = 512 << 20


@dataclass(frozen=True, slots=True)
class HostNeed:
    """Memory that a machine needs of the host at most, guest and processes, in bytes; its vCPUs."""

    memory_bytes: int
    vcpus: int

    @classmethod
    def of_guest(
        cls, hypervisor: Hypervisor, memory_bytes: int, vcpus: int, *, network: bool
    ) -> HostNeed:
        """Return the need of a guest with ``memory_bytes`` of RAM, which may have a gateway."""
        memory = memory_bytes + hypervisor.overhead
        if network:
            memory += MAX_MEMORY
        return cls(memory, vcpus)

    @classmethod
    def of_spec(cls, hypervisor: Hypervisor, spec: MachineSpec) -> HostNeed:
        """Return the need of a machine that boots."""
        network = spec.network is not None
        need = cls.of_guest(hypervisor, spec.memory_bytes, spec.cpus, network=network)
        if not hypervisor.keeps_boot_files:
            return need
        files = (path.stat().st_size for path in (spec.kernel, spec.initrd) if path.exists())
        return cls(need.memory_bytes + sum(files), need.vcpus)


@cache
def find_place() -> GroupPlace | HostError:
    """Return the place for cgroups of machines, or why this host has none; found once."""
    try:
        place = open_place()
    except HostError as error:
        return error
    atexit.register(place.close)
    return place


class HostLimits:
    """Limits of one machine, made before its process, and removed after the end of all."""

    def __init__(self, need: HostNeed, group: MachineGroup | None = None) -> None:
        """Take over ``group``, if the host has one for the machine."""
        self.need = need
        self.group = group
        self._process = 0
        self._has_copy = False
        self._is_closed = False

    @classmethod
    def open(cls, need: HostNeed) -> HostLimits:
        """Return the limits of a machine to come.

        Raises:
            HostError: the host has no room for another cgroup.
        """
        place = find_place()
        if isinstance(place, HostError):
            return cls(need)
        return cls(need, place.create(GroupLimits.for_machine(need.memory_bytes, need.vcpus)))

    @property
    def descriptor(self) -> int:
        """Descriptor of the cgroup, in which a zygote makes the machine's process; -1 if none."""
        return -1 if self.group is None else self.group.descriptor

    def watch(self, process: int) -> None:
        """Take the machine's own process, which is in the cgroup, or gets limits in place of it."""
        self._process = process
        if self.group is None:
            _limit_data(process, self.need.memory_bytes + _DATA_SLACK)

    async def adopt(self, process: int) -> None:
        """Move the machine's own process into the cgroup, with all that it will start.

        Raises:
            HostError: the kernel refuses.
        """
        self.watch(process)
        await self.adopt_gateway(process)

    async def adopt_gateway(self, process: int) -> None:
        """Move the process of the machine's gateway, which has limits of its own, into the cgroup.

        Raises:
            HostError: the kernel refuses.
        """
        if self.group is not None:
            # The kernel waits for all processors, for up to 20 ms: not in the event loop.
            await asyncio.to_thread(self.group.adopt, process)

    def allow_copy(self, memory_bytes: int) -> None:
        """Allow the machine to keep a copy of its guest's RAM, in a snapshot that it writes.

        Raises:
            HostError: the kernel refuses.
        """
        if not self._has_copy:
            self._has_copy = True
            self.need = replace(self.need, memory_bytes=self.need.memory_bytes + memory_bytes)
            if self.group is not None:
                self.group.set_memory(self.need.memory_bytes)

    def read_use(self) -> HostUse | None:
        """Return the use of the host by the machine so far; None after its end.

        Without a cgroup it is that of the machine's process alone, with shared memory.
        """
        if self.group is not None:
            use = self.group.read_use()
            return use and HostUse(*use)
        if not self._process or self._is_closed:
            return None
        return _read_process_use(self._process)

    def describe_loss(self) -> tuple[str, str] | None:
        """Return sentence and hint if the kernel has ended the machine for memory, else None."""
        reached, killed = (0, 0) if self.group is None else self.group.count_kills()
        if not killed:
            return None
        if not reached:
            return (
                "the host ran out of memory, and its kernel ended the machine",
                "Run fewer machines at once, or give the server a smaller memory_budget.",
            )
        size = format_mib(self.need.memory_bytes)
        return (
            f"the machine needed more memory of the host than its {size}, and the kernel ended it",
            "This is not the limit of the program. Give the machine less work at once, or more"
            " memory (--memory), and report this.",
        )

    def discard(self) -> None:
        """Remove the cgroup of a machine that was not started, or has ended."""
        self._is_closed = True
        if self.group is not None:
            self.group.discard()

    async def close(self) -> None:
        """End what is left of the machine, and remove its cgroup. May be called again."""
        self._is_closed = True
        if self.group is not None:
            await self.group.remove()


def _limit_data(process: int, size: int) -> None:
    """Limit the private memory of a process; one that has ended, or refuses, stays as it is."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
    with suppress(ProcessLookupError, PermissionError):
        resource.prlimit(process, resource.RLIMIT_DATA, (limit, limit))


def _read_process_use(process: int) -> HostUse | None:
    """Return the use by one process, by proc_pid_stat(5) and proc_pid_status(5)."""
    try:
        status = Path(f"/proc/{process}/status").read_text("ascii", "replace")
        times = Path(f"/proc/{process}/stat").read_text("ascii", "replace").rpartition(")")[2]
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        user, system = times.split()[11:13]
    except (OSError, StopIteration, ValueError):  # it has ended
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = (int(user) + int(system)) / ticks
    return HostUse(int(peak.split()[1]) << 10, cpu, is_group=False)
