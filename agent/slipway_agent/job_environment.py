"""Interfaces of the guest for jobs: workspaces, groups of processes, launchers.

Type checkers alone import this module; the frozen agent never loads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from slipway_agent.cgroup import PhaseGroup
    from slipway_agent.program_launcher import ProgramLauncher
    from slipway_protocol import messages as m


class Workspace(Protocol):
    """Writable file system of a job or session."""

    directory: str
    size: int

    def resize(self, size: int) -> None:
        """Change the size to ``size`` bytes.

        Raises:
            OSError: the kernel refuses, or more bytes are in use.
        """

    def renew(self) -> None:
        """Restore the permissions that the next program needs.

        Raises:
            OSError: the kernel refuses.
        """

    def remove(self) -> None:
        """Remove the workspace with all files in it."""


class JobEnvironment(Protocol):
    """Operations of the guest that jobs call."""

    def make_workspace(self, size: int) -> Workspace:
        """Make an empty workspace of ``size`` bytes; with 0, of a share of the memory.

        Raises:
            OSError: the kernel refuses.
        """

    def make_group(self, phase: m.Phase, limits: m.Limits) -> PhaseGroup:
        """Make an empty group of processes.

        Raises:
            OSError: the kernel refuses.
        """

    def make_launcher(self, directory: str) -> ProgramLauncher:
        """Return a launcher of programs in ``directory``."""

    @property
    def owner_id(self) -> int:
        """User id that owns the job's files."""
