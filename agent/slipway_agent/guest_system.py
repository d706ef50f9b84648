"""Guest as seen by PID 1: memory, groups of processes, clock and random state."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from struct import pack

from slipway_agent import cgroup, network
from slipway_agent.identity import Identity
from slipway_agent.mounts import TmpfsWorkspace
from slipway_agent.program_launcher import USER_ID, ProgramLauncher
from slipway_protocol import __version__
from slipway_protocol import messages as m
from slipway_protocol.joining import JOINED_FILES
from slipway_protocol.packing import PACKED
from slipway_protocol.schema import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway_agent.cgroup import PhaseGroup

# Memory that jobs never get: for the agent's copies of data, the kernel's buffers of the port
# (4 MiB in flight) and the kernel's own allocations.
RESERVE_BYTES = 24 * 1024 * 1024
# Without disk_bytes, the workspace may fill 1/DISK_SHARE of the memory for jobs.
DISK_SHARE = 2
# include/uapi/linux/random.h
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
RANDOM_DEVICE = "/dev/urandom"
# Bound on the time that a Hello takes from host to agent.
UNDERWAY_NS = 1_000_000_000


class GuestSystem:
    """Services of the prepared guest for jobs and host."""

    def __init__(self, port: str, controllers: tuple[str, ...] | None) -> None:
        """Start the clock of Ready.start_us.

        ``port`` is the kind of port. ``controllers`` are those of cgroup v2, or None where the
        kernel has no cgroup v2.
        """
        self._port = port
        self._start_us = _measure_us_since_exec()
        self._cpu_us = _read_cpu_us()
        self._controllers = controllers
        self._identity = Identity()
        self._clock_is_set = False

    def set_time_and_entropy(self, time_ns: int, entropy: bytes, *, clone: bool) -> None:
        """Set the wall clock, mix ``entropy`` into the random state and force a reseed.

        Raises:
            OSError: the kernel refuses.
        """
        if clone or not self._clock_is_set or is_clock_wrong(time.time_ns(), time_ns):
            time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)
            self._clock_is_set = True
        fd = os.open(RANDOM_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            if entropy:
                size = len(entropy)
                fcntl.ioctl(fd, RNDADDENTROPY, pack("ii", 8 * size, size) + entropy)
            fcntl.ioctl(fd, RNDRESEEDCRNG)
        finally:
            os.close(fd)

    def set_identity(self, *, clone: bool) -> None:
        """Set a unique host name, and for a ``clone`` a unique boot id.

        Raises:
            OSError: the kernel refuses.
        """
        self._identity.set_up(clone=clone)

    def connect(self, spec: m.Connect) -> m.Connected:
        """Bring the network interface up.

        Raises:
            OSError: the interface is missing, or the kernel refuses.
        """
        return network.connect(spec)

    def describe(self) -> m.Ready:
        """Return the answer to Hello."""
        capabilities = [f"port.{self._port}", "network", PACKED, JOINED_FILES]
        if self._controllers is not None:
            capabilities += ["cgroup", *(f"cgroup.{name}" for name in self._controllers)]
        return m.Ready(
            VERSION,
            __version__,
            tuple(capabilities),
            os.uname().release,
            os.cpu_count() or 1,
            self._read_available_memory(),
            self._start_us + _read_cpu_us() - self._cpu_us,
            time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000,
        )

    def make_workspace(self, size: int) -> TmpfsWorkspace:
        """Make a workspace of ``size`` bytes; with 0, of a share of the memory.

        Raises:
            OSError: the kernel refuses.
        """
        memory = self._read_available_memory()
        if self._controllers is not None and "memory" in self._controllers:
            cgroup.limit_jobs(memory)
        return TmpfsWorkspace(size or memory // DISK_SHARE, USER_ID)

    def make_group(self, phase: m.Phase, limits: m.Limits) -> PhaseGroup:
        """Make an empty group of processes.

        Raises:
            OSError: the kernel refuses.
        """
        if self._controllers is None:
            return cgroup.Descendants()
        return cgroup.Cgroup(phase.name.lower(), limits, self._controllers)

    def make_launcher(self, directory: str) -> ProgramLauncher:
        """Return a launcher of programs in ``directory`` as the unprivileged user."""
        return ProgramLauncher(directory, USER_ID)

    @property
    def owner_id(self) -> int:
        """User id of the unprivileged user."""
        return USER_ID

    @staticmethod
    def _read_available_memory() -> int:
        """Return the bytes for jobs: the available memory without the reserve."""
        fd = os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 8192)
        finally:
            os.close(fd)
        available = int(text.partition(b"MemAvailable:")[2].split(maxsplit=1)[0]) * 1024
        return max(available - RESERVE_BYTES, 0)


def is_clock_wrong(now_ns: int, told_ns: int) -> bool:
    """Return true if a clock at ``now_ns`` is wrong when a Hello with ``told_ns`` arrives.

    ``told_ns`` was correct when the host sent the Hello. A clock behind that time is wrong. A clock
    a little ahead may be more exact, since the Hello was on its way, and is left alone.
    """
    return not 0 <= now_ns - told_ns < UNDERWAY_NS


def _read_cpu_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_PROCESS_CPUTIME_ID) // 1000


def _measure_us_since_exec() -> int:
    """Return the microseconds since the kernel executed the agent, exact to 4 ms.

    The CPU clock of PID 1 cannot be used, since the kernel's own set-up counts in it. The kernel
    reads the interpreter's file first when it executes the agent, which sets the access time. (At
    that time the host has not changed the clock yet.)
    """
    began = os.stat(sys.executable).st_atime_ns
    elapsed = (time.clock_gettime_ns(time.CLOCK_REALTIME) - began) // 1000
    return elapsed if 0 < elapsed < _read_cpu_us() else _read_cpu_us()
