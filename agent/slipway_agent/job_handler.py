"""Handler of a job: incoming files, phases, and the files that the host requested."""

from __future__ import annotations

from slipway_agent.file_sender import FileSender
from slipway_agent.files import IncomingFile, IncomingTree
from slipway_agent.phase_runner import PhaseRunner, reads_input
from slipway_agent.pipes import INPUT_WINDOW, InputPipe
from slipway_agent.prestart import MAX_SCRIPT, Script
from slipway_agent.workspaces import NoWorkspace
from slipway_protocol import messages as m
from slipway_protocol.errors import ProtocolError
from slipway_protocol.flow import SendWindow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from slipway_agent.job_environment import Workspace
    from slipway_agent.loop import Child, Loop
    from slipway_agent.prestart import PrestartedProgram
    from slipway_agent.workspaces import Workspaces


class JobHandler:
    """State of one job; calls ``on_done`` after the job's last message."""

    def __init__(
        self,
        loop: Loop,
        workspaces: Workspaces,
        spec: m.Job,
        send: Callable[[m.Message], None],
        on_done: Callable[[], None],
        *,
        joins_files: bool,
    ) -> None:
        """Get a workspace for the job. The first phase reports a failure of that.

        ``joins_files``: the host understands Files.
        """
        self.number = spec.job
        self._loop = loop
        self._workspaces = workspaces
        self._spec = spec
        self._send = send
        self._on_done = on_done
        self._file: IncomingFile | Script | None = None
        self._file_error = ""
        self._workspace: Workspace = NoWorkspace()
        self._prestarted: PrestartedProgram | None = None
        self._script: Script | None = None
        try:
            self._workspace, self._prestarted = workspaces.take(spec)
        except OSError as error:
            self._file_error = f"cannot make the workspace: {error}"
        owner = workspaces.environment.owner_id
        self._tree = IncomingTree(self._workspace.directory, owner, replace=spec.keep)
        self._started = False
        self._cancelled = False
        self._paused = False
        self._phase: PhaseRunner | None = None
        self._windows = {
            stream: SendWindow(spec.window_bytes) for stream in (m.Stream.STDOUT, m.Stream.STDERR)
        }
        self._stdin = InputPipe(loop, self._give_credit)
        self._size = spec.run.tty
        self._joins_files = joins_files
        self._sender: FileSender | None = None

    # --- Messages of the host ---------------------------------------------------------------

    def receive(self, message: m.Message) -> None:
        """Handle a message about this job.

        Raises:
            ProtocolError: the message is not about jobs, or not allowed now.
        """
        handler = _HANDLERS.get(type(message))
        if handler is None:
            raise ProtocolError(f"{type(message).__name__} is not about a job")
        handler(self, message)

    def _receive_file(self, message: m.File) -> None:
        self._expect_files()
        if self._file is not None:
            raise ProtocolError("File arrived before the end of the previous file")
        self._file = self._begin_file(message.path, message.mode, message.size)
        self._close_if_complete()

    def _receive_files(self, message: m.Files) -> None:
        self._expect_files()
        if self._file is not None:
            raise ProtocolError("Files arrived before the end of the previous file")
        for file in message.files:
            self._file = self._begin_file(file.path, file.mode, len(file.data))
            self._file.write(file.data)
            self._close_if_complete()

    def _begin_file(self, path: str, mode: int, size: int) -> IncomingFile | Script:
        prestarted = self._prestarted
        if prestarted is not None and path in prestarted.unless:
            self._end_prestarted(prestarted)
        elif prestarted is not None and path == prestarted.path and self._script is None:
            if size <= MAX_SCRIPT:
                self._script = Script(path, mode, size)
                return self._script
            self._end_prestarted(prestarted)
        return IncomingFile(self._tree, path, mode, size)

    def _use_prestarted(self) -> PrestartedProgram | None:
        """Return the prestarted program if its script has arrived and suits; else end it."""
        prestarted = self._prestarted
        if prestarted is None or self._file_error:
            return None
        if prestarted.can_run(self._script):
            self._prestarted = None
            return prestarted
        self._end_prestarted(prestarted)
        return None

    def _end_prestarted(self, prestarted: PrestartedProgram) -> None:
        """End the program, which does not suit the job, and store its script if any."""
        self._prestarted = None
        try:
            prestarted.end_with_script(self._script)
        except OSError as error:
            self._file_error = f"{prestarted.path} cannot be stored: {error.strerror}"

    def _receive_data(self, message: m.FileData) -> None:
        self._expect_files()
        if self._file is None:
            raise ProtocolError("FileData without File")
        self._file.write(message.data)
        self._close_if_complete()

    def _close_if_complete(self) -> None:
        if self._file is not None and not self._file.left:
            self._file_error = self._file_error or self._file.error
            self._file.close()
            self._file = None

    def _expect_files(self) -> None:
        if self._started:
            raise ProtocolError("a file arrived after Start")

    def _start_job(self, _message: m.Start) -> None:
        if self._started:
            raise ProtocolError("Start arrived twice")
        self._started = True
        if self._file is not None:
            self._file_error = self._file_error or "the last file is incomplete"
        self._tree.close()
        spec = self._spec
        if reads_input(spec.run) or (spec.build is not None and reads_input(spec.build)):
            self._give_credit(INPUT_WINDOW)
        if spec.build is not None:
            self._begin_phase(m.Phase.BUILD, spec.build)
        elif (prestarted := self._use_prestarted()) is not None:
            self._adopt_program(prestarted)
        else:
            self._begin_phase(m.Phase.RUN, spec.run)

    def _receive_input(self, message: m.Input) -> None:
        self._stdin.receive(message.data)

    def _end_input(self, _message: m.InputEnd) -> None:
        self._stdin.finish()

    def _receive_credit(self, message: m.Credit) -> None:
        window = self._windows.get(message.stream)
        if window is None:
            raise ProtocolError("only the agent grants credit for stdin")
        window.grant(message.count)
        if self._phase is not None:
            self._phase.use_credit()

    def _send_signal(self, message: m.Signal) -> None:
        if self._phase is not None:
            self._phase.send_signal(message.number)

    def _resize_terminal(self, message: m.Resize) -> None:
        if self._size is None:
            raise ProtocolError("the program has no terminal")
        self._size = message.tty
        if self._phase is not None:
            self._phase.resize_terminal(message.tty)

    def _cancel_job(self, _message: m.Cancel) -> None:
        self._cancelled = True
        if self._sender is not None:
            self._sender.cancel()
        if self._phase is not None:
            self._phase.kill(m.Verdict.CANCELLED)
        elif not self._started:
            self._finish_job()

    # --- Phases -----------------------------------------------------------------------------

    def handle_ended_children(self, children: list[Child]) -> None:
        """Tell the phase or prestarted program about processes that have been waited for."""
        if self._phase is not None:
            self._phase.handle_ended_children(children)
        elif self._prestarted is not None:
            self._prestarted.handle_ended_children(children)

    def set_paused(self, paused: bool) -> None:
        """Pause or resume output: the queue to the host is long, or short again."""
        self._paused = paused
        if self._phase is not None:
            self._phase.set_paused(paused)
        elif self._sender is not None:
            self._send_files(self._sender)

    def _begin_phase(self, kind: m.Phase, command: m.Command) -> None:
        phase = PhaseRunner(self._loop, self.number, kind, command, self._send)
        self._phase = phase
        if self._file_error:
            phase.report_failure(
                f"the job's files are missing: {self._file_error}", self._handle_phase_end
            )
            return
        try:
            group = self._workspaces.environment.make_group(kind, command.limits)
        except OSError as error:
            phase.report_failure(
                f"cannot make a group of processes: {error}", self._handle_phase_end
            )
            return
        phase.start_program(
            self._workspaces.environment.make_launcher(self._workspace.directory),
            group,
            self._windows,
            self._stdin,
            self._handle_phase_end,
        )
        if kind is m.Phase.RUN and self._size is not None and self._size != self._spec.run.tty:
            phase.resize_terminal(self._size)  # Resize arrived during the build

    def _adopt_program(self, prestarted: PrestartedProgram) -> None:
        assert self._script is not None
        phase = PhaseRunner(self._loop, self.number, m.Phase.RUN, self._spec.run, self._send)
        self._phase = phase
        script, self._script = self._script, None
        phase.adopt_program(prestarted, script, self._windows, self._stdin, self._handle_phase_end)

    def _handle_phase_end(self, phase: PhaseRunner) -> None:
        self._phase = None
        build = phase.kind is m.Phase.BUILD
        if build and phase.verdict is m.Verdict.OK and not self._cancelled:
            self._begin_phase(m.Phase.RUN, self._spec.run)
            return
        directory, size = self._workspace.directory, self._workspace.size
        joins_files = self._joins_files
        self._sender = FileSender(self._spec, directory, size, self._send, joins_files=joins_files)
        if self._cancelled:
            self._sender.cancel()
        self._send_files(self._sender)

    # --- Requested files --------------------------------------------------------------------

    def _send_files(self, sender: FileSender) -> None:
        """Send requested files until the last, or until the queue to the host is long."""
        while not self._paused:
            if not sender.send_next():
                self._finish_job()
                return

    def _give_credit(self, count: int) -> None:
        self._send(m.Credit(self.number, m.Stream.STDIN, count))

    def _finish_job(self) -> None:
        self.close()
        self._send(m.JobDone(self.number))
        self._on_done()

    def close(self) -> None:
        """Remove all traces of the job. The files of a session stay."""
        self._stdin.detach()
        self._tree.close()
        for file in (self._file, self._sender):
            if file is not None:
                file.close()
        self._sender = None
        if self._prestarted is not None:
            self._prestarted.end()
            self._prestarted = None
        self._workspaces.give_back(self._workspace)


_HANDLERS: dict[type[m.Message], Callable[[JobHandler, Any], None]] = {
    m.File: JobHandler._receive_file,
    m.FileData: JobHandler._receive_data,
    m.Files: JobHandler._receive_files,
    m.Start: JobHandler._start_job,
    m.Input: JobHandler._receive_input,
    m.InputEnd: JobHandler._end_input,
    m.Credit: JobHandler._receive_credit,
    m.Signal: JobHandler._send_signal,
    m.Cancel: JobHandler._cancel_job,
    m.Resize: JobHandler._resize_terminal,
}
