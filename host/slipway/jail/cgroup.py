"""Cgroup of one machine: bounds on memory, processes and CPU, and the use of them.

Source: Documentation/admin-guide/cgroup-v2.rst of Linux.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._util.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

# The kernel's default, in microseconds.
_PERIOD = 100_000
# CPUs that a machine may use beside its vCPUs: its devices, its gateway, QEMU's other threads.
OVERHEAD_CPUS = 1
# Threads of a machine's processes, beside one for each vCPU. QEMU has up to 7, a gateway up to 34.
OVERHEAD_THREADS = 128
# Pauses between attempts to remove a group whose processes are ending, in seconds.
_PAUSES = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0)
_READ_BYTES = 4096
# A kernel may not count swap, and the CPU may not be delegated.
_OPTIONAL_FILES = frozenset({"memory.swap.max", "cpu.max"})


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Bounds of a machine's cgroup: memory in bytes, CPUs, and threads of all processes."""

    memory_bytes: int
    cpus: int
    threads: int

    @classmethod
    def for_machine(cls, memory_bytes: int, vcpus: int) -> GroupLimits:
        """Return the bounds of a machine; ``memory_bytes`` includes that of its processes."""
        return cls(memory_bytes, vcpus + OVERHEAD_CPUS, vcpus + OVERHEAD_THREADS)

    @property
    def settings(self) -> dict[str, str]:
        """Values by file of a cgroup. A group without one of the files lacks its controller."""
        return {
            "memory.max": str(self.memory_bytes),
            "memory.swap.max": "0",
            "memory.oom.group": "1",
            "pids.max": str(self.threads),
            "cpu.max": f"{self.cpus * _PERIOD} {_PERIOD}",
        }


class MachineGroup:
    """Cgroup of one machine, locked while this process lives.

    A group whose lock is free belongs to nobody: :mod:`slipway.jail.cgroup_place` removes it.
    """

    def __init__(self, parent: int, name: str) -> None:
        """Make the group ``name`` in the cgroup of the descriptor ``parent``, the caller's.

        Raises:
            OSError: the kernel refuses.
        """
        self._parent = os.dup(parent)
        self.name = name
        self._descriptor = -1
        try:
            os.mkdir(name, 0o755, dir_fd=self._parent)
            self._descriptor = open_locked(self._parent, name)
        except OSError:
            self.discard()
            raise

    @property
    def descriptor(self) -> int:
        """Descriptor of the group's directory; -1 after its removal."""
        return self._descriptor

    def limit(self, limits: GroupLimits) -> None:
        """Set the bounds.

        Raises:
            OSError: the kernel refuses.
        """
        for name, value in limits.settings.items():
            try:
                write_file(self._descriptor, name, value)
            except FileNotFoundError:
                if name not in _OPTIONAL_FILES:
                    raise

    def set_memory(self, memory_bytes: int) -> None:
        """Set another bound on memory.

        Raises:
            HostError: the kernel refuses.
        """
        try:
            write_file(self._descriptor, "memory.max", str(memory_bytes))
        except OSError as error:
            raise HostError(f"the bound of a cgroup cannot be set: {error.strerror}") from None

    def adopt(self, process: int) -> None:
        """Move ``process`` here; memory that it has already stays charged to its former group.

        A process that has ended is no error.

        Raises:
            HostError: the kernel refuses.
        """
        try:
            write_file(self._descriptor, "cgroup.procs", str(process))
        except ProcessLookupError:
            pass
        except OSError as error:
            raise HostError(
                f"a process cannot be moved to its cgroup: {error.strerror}",
                "See what this host lacks: slipway doctor",
            ) from None

    def read_use(self) -> tuple[int, float] | None:
        """Return the most memory in bytes, and CPU time in seconds; None after the removal."""
        try:
            statistics = read_counts(self._descriptor, "cpu.stat")
            # memory.peak is of Linux 5.19.
            for name in ("memory.peak", "memory.current"):
                with suppress(FileNotFoundError):
                    peak = int(read_file(self._descriptor, name))
                    return peak, statistics.get("usage_usec", 0) / 1e6
        except (OSError, ValueError):
            pass
        return None

    def count_kills(self) -> tuple[int, int]:
        """Return how often memory.max was reached, and how many processes the kernel has killed."""
        try:
            events = read_counts(self._descriptor, "memory.events")
        except OSError:
            return 0, 0
        return events.get("oom", 0), events.get("oom_kill", 0)

    def discard(self) -> bool:
        """Remove a group without processes; return False if it has any. May be called again."""
        if self._parent < 0:
            return True
        try:
            os.rmdir(self.name, dir_fd=self._parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
        for descriptor in (self._descriptor, self._parent):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._parent = -1
        return True

    async def remove(self) -> None:
        """Kill what is left in the group, and remove it. May be called again.

        A group that cannot be removed is found by the next search for a place.
        """
        import asyncio  # not at the top: doctor looks for a place, and has no event loop

        for pause in _PAUSES:
            if self.discard():
                return
            with suppress(OSError):
                write_file(self._descriptor, "cgroup.kill", "1")
            await asyncio.sleep(pause)


def open_locked(parent: int, name: str) -> int:
    """Return the descriptor of the group ``name`` below ``parent``, locked until it is closed.

    Raises:
        BlockingIOError: another process has locked it.
        OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=parent)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def write_file(group: int, name: str, value: str) -> None:
    """Write ``value`` to the file ``name`` of the group of a descriptor.

    Raises:
        OSError: the kernel refuses.
    """
    descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=group)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def read_file(group: int, name: str) -> str:
    """Return the text of the file ``name`` of the group of a descriptor.

    Raises:
        OSError: the kernel refuses.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=group)
    try:
        return os.read(descriptor, _READ_BYTES).decode("ascii", "replace")
    finally:
        os.close(descriptor)


def read_words(group: int, name: str) -> Sequence[str]:
    """Return the words of a file such as ``cgroup.controllers``; see :func:`read_file`."""
    return read_file(group, name).split()


def read_counts(group: int, name: str) -> dict[str, int]:
    """Return the numbers by key of a flat keyed file; see :func:`read_file`."""
    pairs = (line.split() for line in read_file(group, name).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
