"""Processes of a phase as a group: limits, usage, and a kill that reaches all of them.

Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from resource import struct_rusage
    from typing import Protocol

    from slipway_protocol.messages import Limits

    class PhaseGroup(Protocol):
        """Group of the processes of one phase."""

        def enter(self) -> None:
            """Move the calling process into the group."""

        def limit(self, limits: Limits) -> None:
            """Limit memory and processes of the group from now on.

            Raises:
                OSError: the kernel refuses.
            """

        def kill(self) -> None:
            """Send SIGKILL to each process of the group."""

        def is_empty(self) -> bool:
            """Return true if the group has no process."""

        def count_ended_child(self, usage: struct_rusage) -> None:
            """Count the usage of a process of the group that has been waited for."""

        def sample_counters(self) -> None:
            """Read the counters for which the kernel keeps no maximum."""

        def is_out_of_memory(self) -> bool:
            """Return true if the kernel has refused memory, or killed processes to free it."""

        def read_cpu_us(self) -> tuple[int, int]:
            """Return user and system CPU time up to now, in microseconds."""

        def read_memory_peak(self) -> int:
            """Return the peak of the group's memory, in bytes."""

        def read_processes_peak(self) -> int:
            """Return the largest number of processes at one time."""

        def remove(self) -> None:
            """Remove the group, which must be empty."""


ROOT = "/sys/fs/cgroup"
JOBS = f"{ROOT}/jobs"
CONTROLLERS = ("cpu", "memory", "pids")
# Of all jobs together. The agent must be able to start a process, and each process costs kernel
# memory that only the memory controller counts.
MAX_PROCESSES = 8192


def _read_file(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode("ascii", "replace")
    finally:
        os.close(fd)


def _write_file(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _read_table(path: str) -> dict[str, int]:
    """Return the content of a file with lines "key number"."""
    return {
        key: int(value) for key, value in (line.split() for line in _read_file(path).splitlines())
    }


def make_jobs_group() -> tuple[str, ...]:
    """Make the group of all jobs; return its controllers.

    Raises:
        OSError: the file system of cgroup v2 is missing.
    """
    available = _read_file(f"{ROOT}/cgroup.controllers").split()
    controllers = tuple(name for name in CONTROLLERS if name in available)
    enable = " ".join(f"+{name}" for name in controllers)
    os.mkdir(JOBS)
    if controllers:
        _write_file(f"{ROOT}/cgroup.subtree_control", enable)
        _write_file(f"{JOBS}/cgroup.subtree_control", enable)
    if "pids" in controllers:
        _write_file(f"{JOBS}/pids.max", str(MAX_PROCESSES))
    return controllers


def limit_jobs(memory_bytes: int) -> None:
    """Limit the memory of all jobs, including the pages of the workspace."""
    _write_file(f"{JOBS}/memory.max", str(memory_bytes))


class Cgroup:
    """Group as a cgroup below :data:`JOBS`."""

    def __init__(self, name: str, limits: Limits, controllers: tuple[str, ...]) -> None:
        self._path = f"{JOBS}/{name}"
        os.mkdir(self._path)
        self._procs = os.open(f"{self._path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self._memory = "memory" in controllers
        self._pids = "pids" in controllers
        self._largest_rss = 0
        self._processes_peak = 1
        if self._memory:
            _write_file(f"{self._path}/memory.oom.group", "1")
            self._forbid_swap()
        self.limit(limits)

    def _forbid_swap(self) -> None:
        try:
            _write_file(f"{self._path}/memory.swap.max", "0")
        except FileNotFoundError:
            pass  # a kernel without swap

    def enter(self) -> None:
        """Move the calling process into the group."""
        os.write(self._procs, b"0")

    def limit(self, limits: Limits) -> None:
        """Limit memory and processes of the group from now on.

        Raises:
            OSError: the kernel refuses.
        """
        if self._memory and limits.memory_bytes:
            _write_file(f"{self._path}/memory.max", str(limits.memory_bytes))
        if self._pids and limits.processes:
            _write_file(f"{self._path}/pids.max", str(limits.processes))

    def kill(self) -> None:
        """Send SIGKILL to each process of the group."""
        try:
            _write_file(f"{self._path}/cgroup.kill", "1")
        except FileNotFoundError:  # before Linux 5.14; called again while the group is not empty
            for pid in _read_file(f"{self._path}/cgroup.procs").split():
                _kill_process(int(pid))

    def is_empty(self) -> bool:
        """Return true if the group has no process."""
        return not _read_table(f"{self._path}/cgroup.events")["populated"]

    def count_ended_child(self, usage: struct_rusage) -> None:
        """Count the largest process, for kernels without the memory controller."""
        self._largest_rss = max(self._largest_rss, usage.ru_maxrss * 1024)

    def sample_counters(self) -> None:
        """Read the number of processes, for kernels without pids.peak."""
        if self._pids:
            now = int(_read_file(f"{self._path}/pids.current"))
            self._processes_peak = max(self._processes_peak, now)

    def is_out_of_memory(self) -> bool:
        """Return true if the kernel has refused memory, or killed processes to free it."""
        if not self._memory:
            return False
        events = _read_table(f"{self._path}/memory.events")
        return events["oom"] > 0 or events["oom_kill"] > 0

    def read_cpu_us(self) -> tuple[int, int]:
        """Return user and system CPU time up to now, in microseconds."""
        table = _read_table(f"{self._path}/cpu.stat")
        return table["user_usec"], table["system_usec"]

    def read_memory_peak(self) -> int:
        """Return the peak of the group's memory, in bytes."""
        if not self._memory:
            return self._largest_rss
        try:
            return int(_read_file(f"{self._path}/memory.peak"))  # since Linux 5.19
        except FileNotFoundError:
            return int(_read_file(f"{self._path}/memory.current"))

    def read_processes_peak(self) -> int:
        """Return the largest number of processes, of the kernel or of the samples."""
        try:
            return int(_read_file(f"{self._path}/pids.peak"))  # since Linux 6.11
        except FileNotFoundError:
            return self._processes_peak

    def remove(self) -> None:
        """Remove the group, which must be empty."""
        os.close(self._procs)
        os.rmdir(self._path)


def _kill_process(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass


class Descendants:
    """Group of all processes below the agent, for kernels without cgroup v2.

    Usage is the rusage of processes that have been waited for, and psutil's view at each sample.
    Maxima are lower bounds.
    """

    def __init__(self) -> None:
        # Imported late: psutil is slow to load, and must not be loaded before /proc is mounted.
        import psutil

        self._psutil = psutil
        self._agent = psutil.Process()
        self._user_us = 0
        self._system_us = 0
        self._memory_peak = 0
        self._processes_peak = 1

    def _list_members(self) -> list[object]:
        return list(self._agent.children(recursive=True))

    def enter(self) -> None:
        """Do nothing: a child of the agent is in the group."""

    def limit(self, limits: Limits) -> None:
        """Do nothing: without cgroup v2 a group has no limits."""

    def kill(self) -> None:
        """Send SIGKILL to each process of the group."""
        if self._agent.pid == 1:
            os.kill(-1, 9)  # all but the kernel and the agent
            return
        for process in self._agent.children(recursive=True):
            try:
                process.kill()
            except self._psutil.NoSuchProcess:
                pass

    def is_empty(self) -> bool:
        """Return true if the group has no process."""
        return not self._list_members()

    def count_ended_child(self, usage: struct_rusage) -> None:
        """Count the usage of a process of the group that has been waited for."""
        self._user_us += round(usage.ru_utime * 1e6)
        self._system_us += round(usage.ru_stime * 1e6)
        self._memory_peak = max(self._memory_peak, usage.ru_maxrss * 1024)

    def sample_counters(self) -> None:
        """Count the processes."""
        self._processes_peak = max(self._processes_peak, len(self._list_members()))

    def is_out_of_memory(self) -> bool:
        """Return false: without cgroup v2 the cause of a kill is unknown."""
        return False

    def read_cpu_us(self) -> tuple[int, int]:
        """Return user and system CPU time up to now, in microseconds."""
        user, system = self._user_us, self._system_us
        for process in self._agent.children(recursive=True):
            try:
                times = process.cpu_times()
            except self._psutil.NoSuchProcess:
                continue
            user += round(times.user * 1e6)
            system += round(times.system * 1e6)
        return user, system

    def read_memory_peak(self) -> int:
        """Return the memory of the largest process, in bytes."""
        return self._memory_peak

    def read_processes_peak(self) -> int:
        """Return the largest number of processes in a sample."""
        return self._processes_peak

    def remove(self) -> None:
        """Do nothing."""
