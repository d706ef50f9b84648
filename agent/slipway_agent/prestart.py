"""Prestart: an interpreter that starts before its job and waits for its script.

At first the script's name belongs to a FIFO. An interpreter that has opened the FIFO reads its
script from there, whenever the script arrives. By then the name belongs to a regular file with the
script, for readers that open the name later: a traceback, or an interpreter that was slow to open
the FIFO.
"""

from __future__ import annotations

import os
from collections import deque

from slipway_agent import syscalls
from slipway_agent.files import make_fifo, remove_file, replace_file
from slipway_agent.loop import READABLE, WRITABLE
from slipway_agent.pipes import widen_pipe
from slipway_agent.program_launcher import StartError
from slipway_agent.running_program import start_program
from slipway_protocol import messages as m
from slipway_protocol.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_agent.cgroup import PhaseGroup
    from slipway_agent.job_environment import JobEnvironment, Workspace
    from slipway_agent.loop import Child, Loop
    from slipway_agent.program_launcher import ProgramLauncher
    from slipway_agent.running_program import RunningProgram

# Bytes of a script. The agent holds the script until the interpreter has read all of it.
MAX_SCRIPT = 4 * 1024 * 1024
_EVENTS = 4096
_ZIP_END = b"PK\5\6"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def can_be_piped(script: bytes | bytearray) -> bool:
    """Return true if an interpreter treats ``script`` from a FIFO like the same file.

    Python seeks in a script that names an encoding in its first two lines, and in zip archives and
    bytecode. Its messages about a script that is not UTF-8 differ.
    """
    if b"\0" in script or _ZIP_END in script or script.startswith(_BYTE_ORDER_MARK):
        return False
    head = script.split(b"\n", 2)[:2]
    if any(b"coding:" in line or b"coding=" in line for line in head):
        return False
    try:
        script.decode()
    except UnicodeDecodeError:
        return False
    return True


class Script:
    """Script of a prestarted program while it arrives, with the methods of an incoming file."""

    def __init__(self, path: str, mode: int, size: int) -> None:
        self.left = size
        self.mode = mode
        self.data = bytearray()
        self.error = ""
        self._path = path

    def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            ProtocolError: the file is longer than announced.
        """
        if len(data) > self.left:
            raise ProtocolError(f"{self._path} is longer than announced")
        self.left -= len(data)
        self.data += data

    def close(self) -> None:
        """Do nothing: the script is in memory."""


class ScriptPipe:
    """FIFO at ``path`` below ``root``, and the script for the program that opens it."""

    def __init__(self, loop: Loop, root: str, path: str, owner: int) -> None:
        """Make the FIFO, readable for the user ``owner``.

        Raises:
            OSError: the kernel refuses.
        """
        self.path = path
        self._loop = loop
        self._root = root
        self._owner = owner
        self._queue: deque[memoryview] = deque()
        self._is_open = False
        self._has_script = False
        self._watched = False
        # The agent's reading end lets it open the writing end without waiting for the program.
        reader, self._writer = make_fifo(root, path, owner)
        self._fds = [reader, self._writer]
        try:
            widen_pipe(self._writer)
            self._watch = syscalls.watch_for_opening(reader)
        except OSError:
            self.close()
            raise
        self._fds.append(self._watch)
        loop.watch(self._watch, READABLE, self._handle_opening)

    def replace_name(self, script: Script) -> None:
        """Give the FIFO's name to a regular file with ``script``, in one step.

        A program that has not opened the FIFO yet can run the script from then on.

        Raises:
            OSError: the file cannot be stored.
        """
        replace_file(self._root, self.path, script.mode, script.data, self._owner)

    def remove_name(self) -> None:
        """Remove the FIFO's name.

        Raises:
            OSError: the name cannot be removed, or is missing.
        """
        remove_file(self._root, self.path)

    def send_script(self, data: bytearray) -> None:
        """Write ``data`` and then end of file, once the program has opened the pipe."""
        self._queue.append(memoryview(data))
        self._has_script = True
        if self._is_open:
            self._write_queue(0)

    def close(self) -> None:
        """Close all descriptors. May be called again."""
        for fd in self._fds:
            self._loop.forget(fd)
            os.close(fd)
        self._fds.clear()
        self._queue.clear()

    def _handle_opening(self, _events: int) -> None:
        try:
            os.read(self._watch, _EVENTS)
        except BlockingIOError:
            return  # an event of another pipe, whose descriptor had this number
        self._is_open = True
        # With the program as its only reader, the pipe breaks when the program ends.
        for fd in (self._watch, self._fds[0]):
            self._loop.forget(fd)
            os.close(fd)
            self._fds.remove(fd)
        if self._has_script:
            self._write_queue(0)

    def _write_queue(self, _events: int) -> None:
        while self._queue:
            data = self._queue[0]
            try:
                written = os.write(self._writer, data)
            except BlockingIOError:
                if not self._watched:
                    self._watched = True
                    self._loop.watch(self._writer, WRITABLE, self._write_queue)
                return
            except BrokenPipeError:
                break
            self._queue[0] = data[written:]
            if not self._queue[0]:
                self._queue.popleft()
        self.close()


class PrestartedProgram:
    """Program that waits for its script, with the workspace of its future job."""

    def __init__(
        self,
        spec: m.Prestart,
        workspace: Workspace,
        pipe: ScriptPipe,
        launcher: ProgramLauncher,
        group: PhaseGroup,
        process: RunningProgram,
    ) -> None:
        self.path = spec.path
        self.unless = frozenset(spec.unless)
        self.workspace = workspace
        self.pipe = pipe
        self.launcher = launcher
        self.group = group
        self.process = process
        self._command = spec.run
        self._is_alive = True

    @classmethod
    def start(cls, loop: Loop, environment: JobEnvironment, spec: m.Prestart) -> PrestartedProgram:
        """Start the program in a new workspace.

        Raises:
            StartError: the program cannot be executed.
            OSError: the kernel refuses.
        """
        undo: list[Callable[[], None]] = []
        try:
            workspace = environment.make_workspace(0)
            undo.append(workspace.remove)
            directory = workspace.directory
            pipe = ScriptPipe(loop, directory, spec.path, environment.owner_id)
            undo.append(pipe.close)
            launcher = environment.make_launcher(directory)
            # The job's limits are set when the job takes the program.
            command = m.Command(spec.run.argv, spec.run.environment, m.Limits())
            group = environment.make_group(m.Phase.RUN, command.limits)
            undo.append(group.remove)
            process = start_program(launcher, command, group, stdin=True)
        except (OSError, StartError):
            for step in reversed(undo):
                step()
            raise
        return cls(spec, workspace, pipe, launcher, group, process)

    def fits(self, job: m.Job) -> bool:
        """Return true if ``job`` can take the program, as far as is known without its script."""
        return (
            self._is_waiting()
            and job.build is None
            and not job.keep
            and job.run.tty is None
            and job.run.argv == self._command.argv
            and job.run.environment == self._command.environment
        )

    def handle_ended_children(self, children: list[Child]) -> None:
        """Note the program's end, if it is among ``children``."""
        if any(pid == self.process.pid for pid, _, _ in children):
            self._is_alive = False

    def can_run(self, script: Script | None) -> bool:
        """Return true if the program runs and treats ``script``, if any, like a file."""
        return script is not None and self._is_waiting() and can_be_piped(script.data)

    def end_with_script(self, script: Script | None) -> None:
        """End the program, and store ``script`` for another if it has arrived.

        Raises:
            OSError: the script cannot be stored.
        """
        self.end()
        self.pipe.remove_name()
        if script is not None:
            self.pipe.replace_name(script)

    def end(self) -> None:
        """End the program and wait for all its processes. The workspace stays."""
        self.group.kill()
        try:
            if self._is_alive:
                self._is_alive = False
                os.waitpid(self.process.pid, 0)
            while not self.group.is_empty():
                os.wait4(-1, 0)  # all have been killed
        except ChildProcessError:
            pass
        self.group.remove()
        self.pipe.close()
        self.process.close()

    def remove(self) -> None:
        """End the program and remove its workspace."""
        self.end()
        self.workspace.remove()

    def _is_waiting(self) -> bool:
        """Return true while the program runs. Notices an end before the loop reports it."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self._is_alive and os.waitid(os.P_PID, self.process.pid, flags) is None
