"""Whose files a job works on: nobody's, those of its session, or a prestarted program's."""

from __future__ import annotations

from slipway_agent.prestart import PrestartedProgram
from slipway_protocol.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from slipway_agent.cgroup import Group
    from slipway_agent.loop import Child, Loop
    from slipway_agent.program import Launcher
    from slipway_protocol import messages as m

    class Disk(Protocol):
        """Where a job may write."""

        directory: str
        size: int

        def resize(self, size: int) -> None:
            """Give it ``size`` bytes. Raises OSError."""

        def renew(self) -> None:
            """Let the next program in, whatever the last one did. Raises OSError."""

        def remove(self) -> None:
            """Remove it with all that is in it."""

    class Ground(Protocol):
        """What a machine gives its jobs."""

        def make_disk(self, size: int) -> Disk:
            """A fresh disk of ``size`` bytes; 0 is a share of the memory. Raises OSError."""

        def make_group(self, phase: m.Phase, limits: m.Limits) -> Group:
            """A fresh group of processes. Raises OSError."""

        def launcher(self, directory: str) -> Launcher:
            """Starts programs in ``directory``."""

        def owner(self) -> int:
            """The user id that owns the job's files."""


class NoDisk:
    """What a job has whose disk could not be made: nothing can be stored there."""

    directory = ""
    size = 0

    def resize(self, size: int) -> None:
        """There is nothing to resize."""

    def renew(self) -> None:
        """Nobody was there."""

    def remove(self) -> None:
        """There is nothing to remove."""


class Disks:
    """The disk that a session has, or the prestarted program with its own, between two jobs."""

    def __init__(self, loop: Loop, ground: Ground) -> None:
        self.ground = ground
        self._loop = loop
        self._kept: Disk | None = None
        self._prestarted: PrestartedProgram | None = None

    def prepare(self, spec: m.Prestart) -> None:
        """Start a prestarted program, in the place of the last one.

        Raises:
            ProtocolError: a session has the disk.
            StartError: it cannot be executed.
            OSError: the kernel refuses.
        """
        if self._kept is not None:
            raise ProtocolError("a prestarted program came in the middle of a session")
        self.end_prestarted()
        self._prestarted = PrestartedProgram(self._loop, self.ground, spec)

    def end_prestarted(self) -> None:
        """Have no prestarted program any more."""
        if self._prestarted is not None:
            prestarted, self._prestarted = self._prestarted, None
            prestarted.remove()

    def children_ended(self, children: list[Child]) -> None:
        """Processes have been waited for."""
        if self._prestarted is not None:
            self._prestarted.children_ended(children)

    def take(self, job: m.Job) -> tuple[Disk, PrestartedProgram | None]:
        """The disk for ``job``, and the program that waits there for its script.

        Raises:
            OSError: the kernel refuses.
        """
        prestarted = self._take_prestarted(job)
        if prestarted is not None:
            return prestarted.disk, prestarted
        if not job.keep:
            self._end_session()
            return self.ground.make_disk(job.disk_bytes), None
        if self._kept is None:
            self._kept = self.ground.make_disk(job.disk_bytes)
        else:
            self._kept.renew()
        return self._kept, None

    def give_back(self, disk: Disk) -> None:
        """The job has ended: its files are the session's, or nobody's."""
        if disk is not self._kept:
            disk.remove()

    def _take_prestarted(self, job: m.Job) -> PrestartedProgram | None:
        prestarted, self._prestarted = self._prestarted, None
        if prestarted is None:
            return None
        if prestarted.fits(job):
            try:
                if job.disk_bytes:
                    prestarted.disk.resize(job.disk_bytes)
                return prestarted
            except OSError:
                pass  # a fresh one may have more luck
        prestarted.remove()
        return None

    def _end_session(self) -> None:
        if self._kept is not None:
            disk, self._kept = self._kept, None
            disk.remove()
