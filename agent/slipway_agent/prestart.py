"""A program that is started before its job: an interpreter that waits for its script.

The script's name is that of a FIFO at first. An interpreter that has opened it reads its script
from there, whenever it comes; by then the name is that of the file itself, for whoever looks (a
traceback, or an interpreter that was too slow to open the FIFO).
"""

from __future__ import annotations

import os
from collections import deque

from slipway_agent import syscalls
from slipway_agent.files import make_fifo, remove_file, replace_file
from slipway_agent.loop import READABLE, WRITABLE
from slipway_agent.pipes import widen_pipe
from slipway_agent.running_program import start_program
from slipway_protocol import messages as m
from slipway_protocol.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway_agent.job_environment import JobEnvironment, Workspace
    from slipway_agent.loop import Child, Loop

# The agent holds the script until the job starts, and while the interpreter reads it.
MAX_SCRIPT = 4 * 1024 * 1024
_EVENTS = 4096
_ZIP_END = b"PK\5\6"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def can_be_piped(script: bytes | bytearray) -> bool:
    """Whether an interpreter makes the same of ``script`` if it cannot seek in it.

    Python seeks where the first two lines name an encoding or the file is none of its sources (a
    zip archive, bytecode), and says other things of a file that is no text.
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
    """Script of a prestarted program while it arrives, with the methods of an incoming file.

    ``error`` says why it cannot be kept.
    """

    def __init__(self, spec: m.File) -> None:
        self.left = spec.size
        self.mode = spec.mode
        self.data = bytearray()
        self.error = ""
        self._path = spec.path

    def write(self, data: bytes) -> None:
        """Append what came.

        Raises:
            ProtocolError: it is more than was announced.
        """
        if len(data) > self.left:
            raise ProtocolError(f"{self._path} is longer than was announced")
        self.left -= len(data)
        self.data += data

    def close(self) -> None:
        """There is nothing to let go of."""


class ScriptPipe:
    """A FIFO at ``path`` below ``root``, and what is to be written into it once it is opened."""

    def __init__(self, loop: Loop, root: str, path: str, owner: int) -> None:
        """Make it.

        Raises:
            OSError: the kernel refuses.
        """
        self._loop = loop
        self._queue: deque[memoryview] = deque()
        self._opened = False
        self._given = False
        self._watched = False
        self._fds: list[int] = []
        try:
            # Our own reading end lets us open the other without waiting for the program.
            self._fds += make_fifo(root, path, owner)
            reader, self._writer = self._fds
            widen_pipe(self._writer)
            self._watch = syscalls.watch_for_opening(reader)
            self._fds.append(self._watch)
        except BaseException:
            for fd in self._fds:
                os.close(fd)
            raise
        loop.watch(self._watch, READABLE, self._handle_opening)

    def send_script(self, data: bytearray) -> None:
        """Write ``data`` and then end of file, once the program has opened the pipe."""
        self._queue.append(memoryview(data))
        self._given = True
        if self._opened:
            self._write_queue(0)

    def close(self) -> None:
        """Let go of the pipe, which has no name any more. May be called again."""
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
        self._opened = True
        # With the only reader being the program, the pipe breaks when it ends.
        for fd in (self._watch, self._fds[0]):
            self._loop.forget(fd)
            os.close(fd)
            self._fds.remove(fd)
        if self._given:
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
    """The program, with the disk that will be its job's."""

    def __init__(self, loop: Loop, environment: JobEnvironment, spec: m.Prestart) -> None:
        """Start it.

        Raises:
            StartError: it cannot be executed.
            OSError: the kernel refuses.
        """
        self.path = spec.path
        self.unless = frozenset(spec.unless)
        self._command = spec.run
        self._owner = environment.owner_id
        self._alive = True
        self.workspace: Workspace = environment.make_workspace(0)
        try:
            directory = self.workspace.directory
            self.pipe = ScriptPipe(loop, directory, spec.path, self._owner)
            try:
                self.launcher = environment.make_launcher(directory)
                # What bounds the job bounds the program when it has one.
                command = m.Command(spec.run.argv, spec.run.environment, m.Limits())
                self.group = environment.make_group(m.Phase.RUN, command.limits)
                try:
                    self.process = start_program(self.launcher, command, self.group, stdin=True)
                except BaseException:
                    self.group.remove()
                    raise
            except BaseException:
                self.pipe.close()
                raise
        except BaseException:
            self.workspace.remove()
            raise

    def fits(self, job: m.Job) -> bool:
        """Whether ``job`` can have the program, as far as can be known without its script."""
        return (
            self._is_waiting()
            and job.build is None
            and not job.keep
            and job.run.tty is None
            and job.run.argv == self._command.argv
            and job.run.environment == self._command.environment
        )

    def handle_ended_children(self, children: list[Child]) -> None:
        """Processes have been waited for."""
        if any(pid == self.process.pid for pid, _, _ in children):
            self._alive = False

    def accept_script(self, script: Script | None) -> bool:
        """Put ``script`` in its place; whether the program can run it.

        If it cannot, it has been ended.

        Raises:
            OSError: the script cannot be stored; the program has been ended.
        """
        if script is not None and self._is_waiting() and can_be_piped(script.data):
            try:
                self._store_script(script)
            except BaseException:
                self.end()
                raise
            return True
        self.end_with_script(script)
        return False

    def end_with_script(self, script: Script | None) -> None:
        """End the program and store ``script`` for another, if it has come.

        Raises:
            OSError: the script cannot be stored.
        """
        self.end()
        remove_file(self.workspace.directory, self.path)
        if script is not None:
            self._store_script(script)

    def end(self) -> None:
        """End the program and wait until nothing of it is left but the disk."""
        self.group.kill()
        try:
            if self._alive:
                self._alive = False
                os.waitpid(self.process.pid, 0)
            while not self.group.is_empty():
                os.wait4(-1, 0)  # all have been killed
        except ChildProcessError:
            pass
        self.group.remove()
        self.pipe.close()
        self.process.close()

    def remove(self) -> None:
        """End the program and remove every trace of it."""
        self.end()
        self.workspace.remove()

    def _store_script(self, script: Script) -> None:
        directory = self.workspace.directory
        replace_file(directory, self.path, script.mode, script.data, self._owner)

    def _is_waiting(self) -> bool:
        """Whether it waits for its script, as far as can be known: its end may not be told yet."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return self._alive and os.waitid(os.P_PID, self.process.pid, flags) is None
