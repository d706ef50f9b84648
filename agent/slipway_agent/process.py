"""A program that runs, and the agent's ends of its pipes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from slipway_agent.pipes import make_pipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway_agent.cgroup import Group
    from slipway_agent.program import Launcher
    from slipway_protocol.messages import Command


@dataclass(frozen=True, slots=True)
class Process:
    """``stdin`` is None where it is empty; whoever has the process closes the descriptors."""

    pid: int
    stdin: int | None
    stdout: int
    stderr: int


def start(launcher: Launcher, command: Command, group: Group, *, stdin: bool) -> Process:
    """Start ``command`` in ``group``, with a pipe or else nothing as its stdin.

    Raises:
        StartError: it cannot be executed.
        OSError: no process could be made for it.
    """
    feeder = None
    ours: list[int] = []
    theirs: list[int] = []
    try:
        if stdin:
            reader, feeder = make_pipe()
            ours.append(feeder)
        else:
            reader = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        theirs.append(reader)
        for _ in ("stdout", "stderr"):
            source, writer = make_pipe()
            ours.append(source)
            theirs.append(writer)
        stdin_fd, stdout_fd, stderr_fd = theirs
        pid = launcher.start(command, group.enter, (stdin_fd, stdout_fd, stderr_fd))
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return Process(pid, feeder, *ours[-2:])
