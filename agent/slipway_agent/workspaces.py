"""Workspaces of jobs: new ones, the session's, and the prestarted program's."""

from __future__ import annotations

from slipway_agent.prestart import PrestartedProgram
from slipway_protocol.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway_agent.job_environment import JobEnvironment, Workspace
    from slipway_agent.loop import Child, Loop
    from slipway_protocol import messages as m


class NoWorkspace:
    """Workspace of a job after the kernel refused to make a real one; nothing is stored."""

    directory = ""
    size = 0

    def resize(self, size: int) -> None:
        """Do nothing."""

    def renew(self) -> None:
        """Do nothing."""

    def remove(self) -> None:
        """Do nothing."""


class Workspaces:
    """Source of workspaces; between jobs, keeps the session's, or the prestarted program's."""

    def __init__(self, loop: Loop, environment: JobEnvironment) -> None:
        self.environment = environment
        self._loop = loop
        self._kept: Workspace | None = None
        self._prestarted: PrestartedProgram | None = None

    def prestart(self, spec: m.Prestart) -> None:
        """Start a prestarted program; end the previous one.

        Raises:
            ProtocolError: a session holds the workspace.
            StartError: the program cannot be executed.
            OSError: the kernel refuses.
        """
        if self._kept is not None:
            raise ProtocolError("Prestart arrived during a session")
        self.end_prestarted()
        self._prestarted = PrestartedProgram.start(self._loop, self.environment, spec)

    def end_prestarted(self) -> None:
        """End the prestarted program, if any, and remove its workspace."""
        if self._prestarted is not None:
            prestarted, self._prestarted = self._prestarted, None
            prestarted.remove()

    def handle_ended_children(self, children: list[Child]) -> None:
        """Tell the prestarted program about processes that have been waited for."""
        if self._prestarted is not None:
            self._prestarted.handle_ended_children(children)

    def take(self, job: m.Job) -> tuple[Workspace, PrestartedProgram | None]:
        """Return the workspace for ``job``, and the program that waits there for its script.

        Raises:
            OSError: the kernel refuses.
        """
        prestarted = self._take_prestarted(job)
        if prestarted is not None:
            return prestarted.workspace, prestarted
        if not job.keep:
            self._end_session()
            return self.environment.make_workspace(job.disk_bytes), None
        if self._kept is None:
            self._kept = self.environment.make_workspace(job.disk_bytes)
        else:
            self._kept.renew()
        return self._kept, None

    def give_back(self, workspace: Workspace) -> None:
        """Take back the workspace of a finished job, and remove it unless a session keeps it."""
        if workspace is not self._kept:
            workspace.remove()

    def _take_prestarted(self, job: m.Job) -> PrestartedProgram | None:
        prestarted, self._prestarted = self._prestarted, None
        if prestarted is None:
            return None
        if prestarted.fits(job):
            try:
                if job.disk_bytes:
                    prestarted.workspace.resize(job.disk_bytes)
                return prestarted
            except OSError:
                pass  # a new workspace is tried next
        prestarted.remove()
        return None

    def _end_session(self) -> None:
        if self._kept is not None:
            workspace, self._kept = self._kept, None
            workspace.remove()
