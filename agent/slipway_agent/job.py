"""One job: its files, its phases, and the files that the host wants back."""

from __future__ import annotations

from slipway_agent.disks import NoDisk
from slipway_agent.files import FileError, IncomingFile, OutgoingFile
from slipway_agent.phase import Phase, reads_input
from slipway_agent.pipes import INPUT_WINDOW, InputPipe
from slipway_agent.prestart import MAX_SCRIPT, Script
from slipway_protocol import messages as m
from slipway_protocol.errors import ProtocolError
from slipway_protocol.flow import SendWindow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from slipway_agent.disks import Disk, Disks
    from slipway_agent.loop import Child, Loop
    from slipway_agent.prestart import PrestartedProgram


class Job:
    """Takes what the host says about one job and answers it; ``on_done`` after its last word."""

    def __init__(
        self,
        loop: Loop,
        disks: Disks,
        spec: m.Job,
        send: Callable[[m.Message], None],
        on_done: Callable[[], None],
    ) -> None:
        """Make room for the job; where that fails, its first phase says so."""
        self.number = spec.job
        self._loop = loop
        self._disks = disks
        self._spec = spec
        self._send = send
        self._on_done = on_done
        self._file: IncomingFile | Script | None = None
        self._file_error = ""
        self._disk: Disk = NoDisk()
        self._prestarted: PrestartedProgram | None = None
        self._script: Script | None = None
        try:
            self._disk, self._prestarted = disks.take(spec)
        except OSError as error:
            self._file_error = f"no disk could be made: {error}"
        self._started = False
        self._cancelled = False
        self._held = False
        self._phase: Phase | None = None
        self._windows = {
            stream: SendWindow(spec.window_bytes) for stream in (m.Stream.STDOUT, m.Stream.STDERR)
        }
        self._stdin = InputPipe(loop, self._give_credit)
        self._size = spec.run.tty
        self._wanted: list[str] | None = None  # the last one first
        self._outgoing: OutgoingFile | None = None

    # --- What the host says -----------------------------------------------------------------

    def receive(self, message: m.Message) -> None:
        """Handle a message about this job.

        Raises:
            ProtocolError: the host may not say that, or not now.
        """
        handler = _HANDLERS.get(type(message))
        if handler is None:
            raise ProtocolError(f"{type(message).__name__} is not about a job")
        handler(self, message)

    def _receive_file(self, message: m.File) -> None:
        self._expect_files()
        if self._file is not None:
            raise ProtocolError("a file began before the former was complete")
        self._file = self._begin_file(message)
        self._close_if_complete()

    def _begin_file(self, message: m.File) -> IncomingFile | Script:
        prestarted = self._prestarted
        if prestarted is not None and message.path in prestarted.unless:
            self._dismiss(prestarted)
        elif prestarted is not None and message.path == prestarted.path and self._script is None:
            if message.size <= MAX_SCRIPT:
                self._script = Script(message)
                return self._script
            self._settle(prestarted)
        owner = self._disks.ground.owner()
        return IncomingFile(self._disk.directory, message, owner, replace=self._spec.keep)

    def _ready_prestarted(self) -> PrestartedProgram | None:
        """The program that has its script and can begin with it, if there is one."""
        if self._prestarted is None or self._file_error:
            return None
        return self._settle(self._prestarted)

    def _settle(self, prestarted: PrestartedProgram) -> PrestartedProgram | None:
        """Give the program its script, all of which is there; returns it if it can take that."""
        self._prestarted = None
        try:
            return prestarted if prestarted.accept(self._script) else None
        except OSError as error:
            self._file_error = f"{prestarted.path} cannot be stored: {error.strerror}"
        return None

    def _dismiss(self, prestarted: PrestartedProgram) -> None:
        """End the program: it has begun without a file that it may have looked for."""
        self._prestarted = None
        try:
            prestarted.refuse(self._script)
        except OSError as error:
            self._file_error = f"{prestarted.path} cannot be stored: {error.strerror}"

    def _receive_data(self, message: m.FileData) -> None:
        self._expect_files()
        if self._file is None:
            raise ProtocolError("file data without a file")
        self._file.write(message.data)
        self._close_if_complete()

    def _close_if_complete(self) -> None:
        if self._file is not None and not self._file.left:
            self._file_error = self._file_error or self._file.error
            self._file.close()
            self._file = None

    def _expect_files(self) -> None:
        if self._started:
            raise ProtocolError("a file came after the job was started")

    def _start(self, _message: m.Start) -> None:
        if self._started:
            raise ProtocolError("the job was started twice")
        self._started = True
        if self._file is not None:
            self._file_error = self._file_error or "the last one ends too early"
        spec = self._spec
        if reads_input(spec.run) or (spec.build is not None and reads_input(spec.build)):
            self._give_credit(INPUT_WINDOW)
        if spec.build is not None:
            self._begin(m.Phase.BUILD, spec.build)
        elif (prestarted := self._ready_prestarted()) is not None:
            self._take_over(prestarted)
        else:
            self._begin(m.Phase.RUN, spec.run)

    def _receive_input(self, message: m.Input) -> None:
        self._stdin.receive(message.data)

    def _end_input(self, _message: m.InputEnd) -> None:
        self._stdin.finish()

    def _receive_credit(self, message: m.Credit) -> None:
        window = self._windows.get(message.stream)
        if window is None:
            raise ProtocolError("credit for stdin is the agent's to give")
        window.grant(message.count)
        if self._phase is not None:
            self._phase.credit_given()

    def _signal(self, message: m.Signal) -> None:
        if self._phase is not None:
            self._phase.signal(message.number)

    def _resize(self, message: m.Resize) -> None:
        if self._size is None:
            raise ProtocolError("the program has no terminal")
        self._size = message.tty
        if self._phase is not None:
            self._phase.resize(message.tty)

    def _cancel(self, _message: m.Cancel) -> None:
        self._cancelled = True
        if self._phase is not None:
            self._phase.kill(m.Verdict.CANCELLED)
        elif not self._started:
            self._finish()

    # --- Phases -----------------------------------------------------------------------------

    def children_ended(self, children: list[Child]) -> None:
        """Processes have been waited for."""
        if self._phase is not None:
            self._phase.children_ended(children)
        elif self._prestarted is not None:
            self._prestarted.children_ended(children)

    def hold(self, held: bool) -> None:
        """The queue to the host is long, or short again."""
        self._held = held
        if self._phase is not None:
            self._phase.hold(held)
        elif self._wanted is not None:
            self._send_files()

    def _begin(self, kind: m.Phase, command: m.Command) -> None:
        phase = Phase(self._loop, self.number, kind, command, self._send)
        self._phase = phase
        if self._file_error:
            phase.refuse(f"the job's files are not there: {self._file_error}", self._phase_done)
            return
        try:
            group = self._disks.ground.make_group(kind, command.limits)
        except OSError as error:
            phase.refuse(f"no group of processes could be made: {error}", self._phase_done)
            return
        phase.start(
            self._disks.ground.launcher(self._disk.directory),
            group,
            self._windows,
            self._stdin,
            self._phase_done,
        )
        if kind is m.Phase.RUN and self._size is not None and self._size != self._spec.run.tty:
            phase.resize(self._size)  # it was told during the build

    def _take_over(self, prestarted: PrestartedProgram) -> None:
        assert self._script is not None
        phase = Phase(self._loop, self.number, m.Phase.RUN, self._spec.run, self._send)
        self._phase = phase
        script, self._script = self._script.data, None
        phase.take_over(prestarted, script, self._windows, self._stdin, self._phase_done)

    def _phase_done(self, phase: Phase) -> None:
        self._phase = None
        build = phase.kind is m.Phase.BUILD
        if build and phase.verdict is m.Verdict.OK and not self._cancelled:
            self._begin(m.Phase.RUN, self._spec.run)
            return
        self._wanted = list(reversed(self._spec.outputs))
        self._send_files()

    # --- The files that the host wants back ----------------------------------------------------

    def _send_files(self) -> None:
        """Send until all is sent, or the queue to the host is long."""
        while not self._held and self._wanted is not None:
            if self._outgoing is not None:
                self._send_data(self._outgoing)
            elif self._wanted:
                self._open_file(self._wanted.pop())
            else:
                self._finish()

    def _open_file(self, path: str) -> None:
        try:
            if self._cancelled:
                raise FileError("the job was cancelled")
            file = OutgoingFile(self._disk.directory, path, self._disk.size)
        except FileError as error:
            self._send(m.FileMissing(self.number, path, str(error)))
            return
        self._outgoing = file
        self._send(m.File(self.number, path, file.mode, file.size))

    def _send_data(self, file: OutgoingFile) -> None:
        if file.left:
            self._send(m.FileData(self.number, file.read()))
        else:
            file.close()
            self._outgoing = None

    def _give_credit(self, count: int) -> None:
        self._send(m.Credit(self.number, m.Stream.STDIN, count))

    def _finish(self) -> None:
        self._wanted = None
        self.close()
        self._send(m.JobDone(self.number))
        self._on_done()

    def close(self) -> None:
        """Remove every trace of the job, but for the files of a session."""
        self._stdin.detach()
        for file in (self._file, self._outgoing):
            if file is not None:
                file.close()
        if self._prestarted is not None:
            self._prestarted.end()
            self._prestarted = None
        self._disks.give_back(self._disk)


_HANDLERS: dict[type[m.Message], Callable[[Job, Any], None]] = {
    m.File: Job._receive_file,
    m.FileData: Job._receive_data,
    m.Start: Job._start,
    m.Input: Job._receive_input,
    m.InputEnd: Job._end_input,
    m.Credit: Job._receive_credit,
    m.Signal: Job._signal,
    m.Cancel: Job._cancel,
    m.Resize: Job._resize,
}
