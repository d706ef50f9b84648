"""Exchange of one job with the agent: the order of its messages, its output and its files.

The agent's side belongs to the guest, which is hostile: a message that is out of order, over its
credit or not asked for ends the job with an unknown outcome.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from slipway._run.file_receiver import FileReceiver
from slipway._run.job_report import JobReport, PhaseReport
from slipway._run.job_transfer import build_job_messages, is_small
from slipway._run.stdin_credit import StdinCredit
from slipway._util.errors import InputError, UnknownOutcome
from slipway._util.text import to_plain_line
from slipway._util.units import MIB
from slipway_protocol import messages as m
from slipway_protocol.errors import ProtocolError
from slipway_protocol.flow import ReceiveWindow
from slipway_protocol.schema import MAX_DATA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from slipway._model.input_file import InputFile
    from slipway._run.output_sink import JobObserver, OutputSink
    from slipway_protocol.messages import HostMessage, Message

# Credit of each stream of a run, in bytes. Keeps a fast pipe full at the latency of a loaded host.
WINDOW = MIB


class AgentChannel(Protocol):
    """Messages of one connection. All methods raise UnknownOutcome when the machine has ended."""

    @property
    def joins_files(self) -> bool:
        """True if the agent understands Files."""
        ...

    async def send(self, message: HostMessage) -> None:
        """Send ``message``; wait while the guest does not read."""

    def post(self, *messages: HostMessage) -> None:
        """Send small ``messages`` in one write, without waiting."""

    async def receive(self) -> Message:
        """Return the next message."""
        ...

    def log_line(self, message: m.Log) -> None:
        """Log a line of the agent."""


class JobExchange:
    """Exchange of one job, from its announcement to JobDone.

    The task that receives pushes output into ``sink`` and never waits for its reader, so a slow one
    delays neither the verdict nor the other stream. The agent's credit bounds what the sink holds:
    the exchange returns it as the sink releases it.
    """

    def __init__(
        self,
        channel: AgentChannel,
        number: int,
        job: m.Job,
        sink: OutputSink,
        observer: JobObserver | None = None,
    ) -> None:
        self._channel = channel
        self._job = job
        self._id = number
        # Both are forgotten at the end: they hold the handle of the run, or this exchange.
        self._sink: OutputSink | None = sink
        self._observer = observer
        self._report = JobReport()
        self._files = FileReceiver(job, self._report)
        self._phase: m.Phase | None = None
        self._phase_began = time.monotonic()
        self._streams = {s: _OutputStream() for s in (m.Stream.STDOUT, m.Stream.STDERR)}
        self._is_over = False
        self._is_cancelled = False
        self._stdin_credit = StdinCredit()
        self._started = asyncio.Event()
        self._size: m.Tty | None = None

    async def run(
        self, files: tuple[InputFile, ...], stdin: AsyncIterator[bytes] | None
    ) -> JobReport:
        """Send the job with its ``files`` and ``stdin``, and return the report at its end.

        Raises:
            UnknownOutcome: the machine ended, or broke the protocol.
        """
        assert self._sink is not None
        self._sink.connect(self)
        try:
            async with asyncio.TaskGroup() as tasks:
                feeder = tasks.create_task(self._send_stdin(stdin)) if stdin is not None else None
                sender = None
                if is_small(files):
                    self._channel.post(*self._build_messages(files))
                    self._started.set()
                else:
                    sender = tasks.create_task(self._send_job(files))
                while not self._handle_message(await self._channel.receive()):
                    pass
                if sender is not None:
                    await sender
                if feeder is not None:
                    feeder.cancel()
        except BaseExceptionGroup as group:
            # Tasks are cancelled together; the first to fail says why.
            raise group.exceptions[0] from None
        finally:
            self._is_over = True
            self._sink, observer, self._observer = None, self._observer, None
        if observer is not None:
            observer.on_job_done()
        return self._report

    async def cancel(self) -> None:
        """Have the agent end the job.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        self._is_cancelled = True
        await self._channel.send(m.Cancel(self._id))

    async def resize(self, size: m.Tty) -> None:
        """Resize the program's terminal, now or when the job starts.

        Raises:
            UnknownOutcome: the machine has ended.
        """
        self._size = size
        if self._started.is_set():
            await self._channel.send(m.Resize(self._id, size))

    def release(self, stream: m.Stream, size: int) -> None:
        """Let the agent send ``size`` more bytes of ``stream``; a job that is over needs none.

        Credit is posted: it takes some 16 bytes for each half window that came, and a guest that
        does not read them gets no further.
        """
        grant = self._streams[stream].window.count_consumed(size)
        if grant and not self._is_over:
            self._channel.post(m.Credit(self._id, stream, grant))

    # --- Sending ----------------------------------------------------------------------------

    async def _send_job(self, files: tuple[InputFile, ...]) -> None:
        for message in self._build_messages(files):
            await self._channel.send(message)
        self._started.set()
        if self._size is not None:  # it came before the agent knew the job
            await self._channel.send(m.Resize(self._id, self._size))

    def _build_messages(self, files: tuple[InputFile, ...]) -> Iterator[HostMessage]:
        job = replace(self._job, job=self._id, window_bytes=WINDOW)
        return build_job_messages(job, files, joins_files=self._channel.joins_files)

    async def _send_stdin(self, stdin: AsyncIterator[bytes]) -> None:
        # An empty stdin ends at once: the agent has to know its job before that.
        await self._started.wait()
        try:
            async for data in stdin:
                rest = memoryview(data)
                while rest:
                    count = await self._stdin_credit.spend(min(len(rest), MAX_DATA))
                    await self._channel.send(m.Input(self._id, bytes(rest[:count])))
                    rest = rest[count:]
        except InputError as error:  # of the caller's iterator: the program would wait for more
            self._report.failure = error
            await self.cancel()
            return
        await self._channel.send(m.InputEnd(self._id))

    # --- Receiving --------------------------------------------------------------------------

    def _handle_message(self, message: Message) -> bool:
        """Handle one message; return True at the end of the job."""
        job = getattr(message, "job", self._id)
        if job != self._id:
            raise UnknownOutcome(f"{type(message).__name__} is about job {job}, not {self._id}")
        match message:
            case m.Output(stream=stream, data=data):
                self._take_output(stream, data)
            case m.PhaseStarted(phase=phase):
                self._start_phase(phase)
            case m.OutputEnd():
                self._end_output(message)
            case m.PhaseDone():
                self._end_phase(message)
            case m.Credit(stream=m.Stream.STDIN, count=count):
                self._stdin_credit.grant(count)
            case m.File():
                self._files.begin_file(message)
            case m.FileData(data=data):
                self._files.take_data(data)
            case m.Files(files=files):
                self._files.take_files(files)
            case m.FileMissing(path=path, reason=reason):
                self._files.note_missing(path, to_plain_line(reason))
            case m.Log():
                self._channel.log_line(message)
            case m.Fault(text=text):
                # No message of the host's may cause one; its subject gets no answer any more.
                raise UnknownOutcome(f"the agent gave up: {to_plain_line(text)}")
            case m.Exited():
                pass  # PhaseDone says it again, with the verdict
            case m.Ready():
                pass  # to a second Hello: the port had not lost the first
            case m.JobDone():
                self._check_complete()
                return True
            case _:
                raise UnknownOutcome(f"{type(message).__name__} came in the middle of a job")
        return False

    def _find_next_phase(self) -> m.Phase | None:
        """Return the phase that has to follow, or None behind the last."""
        phases = self._report.phases
        if not phases:
            return m.Phase.RUN if self._job.build is None else m.Phase.BUILD
        if m.Phase.RUN in phases or phases[m.Phase.BUILD].done.verdict is not m.Verdict.OK:
            return None
        return m.Phase.RUN

    def _start_phase(self, phase: m.Phase) -> None:
        if self._phase is not None or phase is not self._find_next_phase():
            raise UnknownOutcome(f"the {phase.name} phase began out of order")
        self._phase = phase
        for stream in self._streams.values():
            stream.start_phase()
        if self._observer is not None:
            self._observer.on_phase_started(phase)

    def _take_output(self, stream: m.Stream, data: bytes) -> None:
        state = self._streams.get(stream)
        if state is None or self._phase is None or state.has_ended:
            raise UnknownOutcome("output came from a stream that is not open")
        try:
            state.window.count_received(len(data))
        except ProtocolError as error:
            raise UnknownOutcome(f"the guest broke the protocol: {error.message}") from None
        state.received += len(data)
        # The agent keeps the limit, and a sink that collects the output relies on it.
        if (limit := self._find_limits(self._phase).output_bytes) and state.received > limit:
            raise UnknownOutcome(f"the guest sent more than the output limit of {limit} bytes")
        assert self._sink is not None
        self._sink.put_output(self._phase, stream, data)

    def _find_limits(self, phase: m.Phase) -> m.Limits:
        build = self._job.build
        command = build if build is not None and phase is m.Phase.BUILD else self._job.run
        return command.limits

    def _end_output(self, message: m.OutputEnd) -> None:
        state = self._streams.get(message.stream)
        if state is None or self._phase is None or state.has_ended:
            raise UnknownOutcome("the end of a stream came that is not open")
        if message.sent != state.received:
            lost = message.sent - state.received
            raise UnknownOutcome(f"{message.stream.name.lower()} lost {lost} bytes on the way")
        state.has_ended = True
        state.dropped = message.dropped

    def _end_phase(self, done: m.PhaseDone) -> None:
        streams = self._streams
        if done.phase is not self._phase or not all(s.has_ended for s in streams.values()):
            raise UnknownOutcome(f"the {done.phase.name} phase ended out of order")
        now = time.monotonic()
        self._report.phases[done.phase] = PhaseReport(
            replace(done, detail=to_plain_line(done.detail)),
            self._find_limits(done.phase),
            {name: stream.received for name, stream in streams.items()},
            {name: stream.dropped for name, stream in streams.items()},
            now - self._phase_began,
        )
        self._phase_began = now
        self._phase = None
        if self._observer is not None:
            self._observer.on_phase_ended(done.phase, self._report.phases[done.phase])

    def _check_complete(self) -> None:
        """Check that all phases and files of the job came.

        Raises:
            UnknownOutcome: a phase or file is missing.
        """
        # A job that is cancelled between its phases ends there.
        is_cut = self._is_cancelled and bool(self._report.phases)
        if self._phase is not None or (self._find_next_phase() is not None and not is_cut):
            raise UnknownOutcome("the job ended out of order")
        self._files.check_complete()


class _OutputStream:
    """Counts of stdout or stderr in the current phase, and the credit of the whole job."""

    def __init__(self) -> None:
        self.window = ReceiveWindow(WINDOW)
        self.start_phase()

    def start_phase(self) -> None:
        """Begin to count for a phase."""
        self.received = 0
        self.dropped = 0
        self.has_ended = False
