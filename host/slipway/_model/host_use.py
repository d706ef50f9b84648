"""Use of the host by a machine, as the host has counted it."""

from __future__ import annotations

from dataclasses import dataclass

from slipway._util.public import public


@public
@dataclass(frozen=True, slots=True)
class HostUse:
    """Use of the host by the processes of a machine, from its start to the end of the run.

    ``memory_peak`` is the most memory at a time, in bytes, ``cpu`` the CPU time in seconds. They
    are those of the machine's cgroup, with its gateway; on a host without cgroups for machines
    (``is_group`` is False), of its one process, with the memory that it shares with others.
    """

    memory_peak: int
    cpu: float
    is_group: bool = True
