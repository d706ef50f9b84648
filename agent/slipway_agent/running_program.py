"""Running program: its process, and the agent's ends of its pipes or terminal."""

from __future__ import annotations

import os
from dataclasses import dataclass

from slipway_agent.pipes import PipeWriter, make_pipe
from slipway_agent.program_launcher import StartError
from slipway_agent.terminal import Keyboard, Terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway_agent.cgroup import PhaseGroup
    from slipway_agent.pipes import Writer
    from slipway_agent.program_launcher import ProgramLauncher
    from slipway_protocol.messages import Command, Tty


@dataclass(frozen=True, slots=True)
class RunningProgram:
    """Process of a program and the agent's ends of its streams, which the owner closes.

    ``stdin`` is None for an empty stdin. ``stderr`` is None where a ``terminal`` is all three.
    """

    pid: int
    stdin: Writer | None
    stdout: int
    stderr: int | None
    terminal: Terminal | None = None

    def close(self) -> None:
        """Close all descriptors."""
        if self.stdin is not None:
            os.close(self.stdin.fd)
        for fd in (self.stdout, self.stderr):
            if fd is not None:
                os.close(fd)
        if self.terminal is not None:
            self.terminal.close_program_side()


def start_program(
    launcher: ProgramLauncher, command: Command, group: PhaseGroup, *, stdin: bool
) -> RunningProgram:
    """Start ``command`` in ``group``, in a terminal or with pipes.

    Without ``stdin`` and terminal, the program's stdin is empty.

    Raises:
        StartError: the program cannot be executed.
        OSError: the kernel cannot make a process, pipe or terminal.
    """
    if command.tty is not None:
        return _start_in_terminal(launcher, command, group, command.tty)
    feeder = None
    ours: list[int] = []
    theirs: list[int] = []
    try:
        if stdin:
            reader, feeder = make_pipe(launcher.user_id)
            ours.append(feeder)
        else:
            reader = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        theirs.append(reader)
        for _ in ("stdout", "stderr"):
            source, writer = make_pipe(launcher.user_id)
            ours.append(source)
            theirs.append(writer)
        stdin_fd, stdout_fd, stderr_fd = theirs
        pid = launcher.start(command, group.enter, (stdin_fd, stdout_fd, stderr_fd))
    except (OSError, StartError):
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    stdout, stderr = ours[-2:]
    return RunningProgram(pid, None if feeder is None else PipeWriter(feeder), stdout, stderr)


def _start_in_terminal(
    launcher: ProgramLauncher, command: Command, group: PhaseGroup, size: Tty
) -> RunningProgram:
    terminal = Terminal(size)
    ours = [terminal.ours]
    try:
        # The loop watches a descriptor for one event; a second descriptor is for writing.
        ours.append(os.dup(terminal.ours))
        if launcher.user_id is not None:
            os.fchown(terminal.theirs, launcher.user_id, launcher.user_id)
        pid = launcher.start(command, group.enter, (terminal.theirs,) * 3)
    except (OSError, StartError):
        for fd in (*ours, terminal.theirs):
            os.close(fd)
        raise
    return RunningProgram(pid, Keyboard(ours[1], terminal), terminal.ours, None, terminal)
