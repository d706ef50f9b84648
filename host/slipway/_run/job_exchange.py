"""One job's part of a session: what the agent may say when, and what becomes of it.

The agent's side is the guest's, and the guest is hostile: whatever is out of order, over its credit
or not asked for ends the job as an unknown outcome.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from slipway._model.errors import InputError, UnknownOutcome
from slipway._run.job_report import JobReport, PhaseReport
from slipway._util.text import to_plain_line
from slipway_protocol import messages as m
from slipway_protocol.errors import ProtocolError
from slipway_protocol.flow import ReceiveWindow
from slipway_protocol.schema import MAX_DATA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._model.input_file import InputFile
    from slipway._run.output_sink import JobObserver, OutputSink
    from slipway_protocol.messages import HostMessage, Message


class Line(Protocol):
    """What a conversation needs of its session. Both raise UnknownOutcome at its end."""

    async def send(self, message: HostMessage) -> None:
        """Send ``message``; waits while the guest does not read."""

    def post(self, message: HostMessage) -> None:
        """Send a small ``message`` without waiting."""

    async def receive(self) -> Message:
        """The next message."""
        ...

    def log(self, message: m.Log) -> None:
        """Pass a line of the agent's on."""


# Enough to keep a fast pipe full at the latency of a loaded host; held per stream and run.
WINDOW = 1024 * 1024
# Files fetched back are kept in memory until they are handed over.
MAX_FETCHED = 256 * 1024 * 1024


class Conversation:
    """One job, from its announcement to JobDone.

    The task that receives pushes output into ``sink`` and never waits for its reader, so a slow one
    delays neither the verdict nor the other stream. The agent's credit bounds what the sink holds:
    the exchange returns it as the sink releases it.
    """

    def __init__(
        self,
        line: Line,
        number: int,
        job: m.Job,
        sink: OutputSink,
        observer: JobObserver | None = None,
    ) -> None:
        self._line = line
        self._job = job
        self._id = number
        self._sink = sink
        self._report = JobReport()
        self._phase: m.Phase | None = None
        self._phase_began = time.monotonic()
        self._observer = observer
        self._streams = {s: _OutputStream() for s in (m.Stream.STDOUT, m.Stream.STDERR)}
        self._is_over = False
        self._wanted = set(job.outputs)
        self._incoming: tuple[m.File, bytearray] | None = None
        self._fetched = 0
        self._cancelled = False
        self._stdin_credit = 0
        self._stdin_open = asyncio.Event()
        self._started = asyncio.Event()
        self._size: m.Tty | None = None

    async def run(
        self, files: tuple[InputFile, ...], stdin: AsyncIterator[bytes] | None
    ) -> JobReport:
        self._sink.connect(self)
        try:
            await self._converse(files, stdin)
        except BaseExceptionGroup as group:
            # Tasks are cancelled together; the first to fail says why.
            raise group.exceptions[0] from None
        finally:
            self._is_over = True
        return self._report

    def release(self, stream: m.Stream, size: int) -> None:
        """Let the agent send ``size`` more bytes of ``stream``; a job that is over needs none.

        Credit is posted: it takes some 16 bytes for each half window that came, and a guest that
        does not read them gets no further.
        """
        grant = self._streams[stream].window.count_consumed(size)
        if grant and not self._is_over:
            self._line.post(m.Credit(self._id, stream, grant))

    async def cancel(self) -> None:
        """Have the agent end the job; raises UnknownOutcome where the machine has ended."""
        self._cancelled = True
        await self._line.send(m.Cancel(self._id))

    async def resize(self, size: m.Tty) -> None:
        """Give the program's terminal another size; raises UnknownOutcome."""
        self._size = size
        if self._started.is_set():
            await self._line.send(m.Resize(self._id, size))

    async def _converse(
        self, files: tuple[InputFile, ...], stdin: AsyncIterator[bytes] | None
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            feeder = tasks.create_task(self._feed(stdin)) if stdin is not None else None
            sender = tasks.create_task(self._announce(files))
            while not self._handle(await self._line.receive()):
                pass
            await sender
            if feeder is not None:
                feeder.cancel()
        if self._observer is not None:
            self._observer.on_job_done()

    async def _announce(self, files: tuple[InputFile, ...]) -> None:
        send = self._line.send
        await send(replace(self._job, job=self._id, window_bytes=WINDOW))
        for file in files:
            await send(m.File(self._id, file.path, file.mode, len(file.data)))
            for start in range(0, len(file.data), MAX_DATA):
                await send(m.FileData(self._id, file.data[start : start + MAX_DATA]))
        await send(m.Start(self._id))
        self._started.set()
        if self._size is not None:  # it was told before the agent knew the job
            await send(m.Resize(self._id, self._size))

    async def _feed(self, stdin: AsyncIterator[bytes]) -> None:
        # An empty stdin is at its end at once: the agent would not know of which job.
        await self._started.wait()
        try:
            async for data in stdin:
                rest = memoryview(data)
                while rest:
                    while not self._stdin_credit:
                        self._stdin_open.clear()
                        await self._stdin_open.wait()
                    count = min(len(rest), self._stdin_credit, MAX_DATA)
                    self._stdin_credit -= count
                    await self._line.send(m.Input(self._id, bytes(rest[:count])))
                    rest = rest[count:]
        except InputError as error:  # the caller's iterator: its program would wait for more
            self._report.failure = error
            await self.cancel()
            return
        await self._line.send(m.InputEnd(self._id))

    def _handle(self, message: Message) -> bool:
        """Take one message; True at the end of the job."""
        job = getattr(message, "job", self._id)
        if job != self._id:
            raise UnknownOutcome(f"{type(message).__name__} is about job {job}, not {self._id}")
        match message:
            case m.Output(stream=stream, data=data):
                self._output(stream, data)
            case m.PhaseStarted(phase=phase):
                self._begin(phase)
            case m.OutputEnd():
                self._output_end(message)
            case m.PhaseDone():
                self._end(message)
            case m.Credit(stream=m.Stream.STDIN, count=count):
                self._stdin_credit += count
                self._stdin_open.set()
            case m.File():
                self._file(message)
            case m.FileData(data=data):
                self._file_data(data)
            case m.FileMissing(path=path, reason=reason):
                self._claim(path)
                self._report.missing[path] = to_plain_line(reason)
            case m.Log():
                self._line.log(message)
            case m.Fault(text=text):
                # Nothing that we send may provoke one; what it is about will not be answered.
                raise UnknownOutcome(f"the agent gave up: {to_plain_line(text)}")
            case m.Exited():
                pass  # PhaseDone says it again, with the verdict
            case m.Ready():
                pass  # to our second Hello: the port had not lost the first
            case m.JobDone():
                self._finish()
                return True
            case _:
                raise UnknownOutcome(f"{type(message).__name__} came in the middle of a job")
        return False

    def _next(self) -> m.Phase | None:
        """The phase that is to follow those that are over; None where there is none."""
        phases = self._report.phases
        if not phases:
            return m.Phase.RUN if self._job.build is None else m.Phase.BUILD
        if m.Phase.RUN in phases or phases[m.Phase.BUILD].done.verdict is not m.Verdict.OK:
            return None
        return m.Phase.RUN

    def _begin(self, phase: m.Phase) -> None:
        if self._phase is not None or phase is not self._next():
            raise UnknownOutcome(f"the {phase.name} phase began out of order")
        self._phase = phase
        for stream in self._streams.values():
            stream.begin()
        if self._observer is not None:
            self._observer.on_phase_started(phase)

    def _output(self, stream: m.Stream, data: bytes) -> None:
        state = self._streams.get(stream)
        if state is None or self._phase is None or state.ended:
            raise UnknownOutcome("output came from a stream that is not open")
        try:
            state.window.count_received(len(data))
        except ProtocolError as error:
            raise UnknownOutcome(f"the guest broke the protocol: {error.message}") from None
        state.received += len(data)
        # The agent keeps the limit; who collects the output relies on it.
        if (limit := self._limits(self._phase).output_bytes) and state.received > limit:
            raise UnknownOutcome(f"the guest sent more than the output limit of {limit} bytes")
        self._sink.put_output(self._phase, stream, data)

    def _limits(self, phase: m.Phase) -> m.Limits:
        build = self._job.build
        command = build if build is not None and phase is m.Phase.BUILD else self._job.run
        return command.limits

    def _output_end(self, message: m.OutputEnd) -> None:
        state = self._streams.get(message.stream)
        if state is None or self._phase is None or state.ended:
            raise UnknownOutcome("the end of a stream came that is not open")
        if message.sent != state.received:
            lost = message.sent - state.received
            raise UnknownOutcome(f"{message.stream.name.lower()} lost {lost} bytes on the way")
        state.ended = True
        state.dropped = message.dropped

    def _end(self, done: m.PhaseDone) -> None:
        if done.phase is not self._phase or not all(s.ended for s in self._streams.values()):
            raise UnknownOutcome(f"the {done.phase.name} phase ended out of order")
        now = time.monotonic()
        self._report.phases[done.phase] = PhaseReport(
            replace(done, detail=to_plain_line(done.detail)),
            self._limits(done.phase),
            {name: stream.received for name, stream in self._streams.items()},
            {name: stream.dropped for name, stream in self._streams.items()},
            now - self._phase_began,
        )
        self._phase_began = now
        self._phase = None
        if self._observer is not None:
            self._observer.on_phase_ended(done.phase, self._report.phases[done.phase])

    def _claim(self, path: str) -> None:
        if path not in self._wanted or self._incoming is not None:
            raise UnknownOutcome(f"the guest sent a file that was not asked for: {path!r}")
        self._wanted.remove(path)

    def _file(self, file: m.File) -> None:
        self._claim(file.path)
        self._fetched += file.size
        if self._fetched > MAX_FETCHED:
            raise UnknownOutcome(f"the files fetched back have more than {MAX_FETCHED} bytes")
        self._incoming = (file, bytearray())
        self._file_data(b"")

    def _file_data(self, data: bytes) -> None:
        if self._incoming is None:
            raise UnknownOutcome("file content came without a file")
        file, content = self._incoming
        content += data
        if len(content) > file.size:
            raise UnknownOutcome(f"{file.path!r} has more bytes than were announced")
        if len(content) == file.size:
            self._report.files[file.path] = (file.mode, bytes(content))
            self._incoming = None

    def _finish(self) -> None:
        # A job that is cancelled between its phases ends there.
        early = self._next() is not None and not (self._cancelled and self._report.phases)
        if self._phase is not None or early:
            raise UnknownOutcome("the job ended out of order")
        if self._wanted or self._incoming is not None:
            raise UnknownOutcome("the job ended without all of its files")


class _OutputStream:
    """Counts of stdout or stderr in the current phase, and the credit of the whole job."""

    def __init__(self) -> None:
        self.window = ReceiveWindow(WINDOW)
        self.begin()

    def begin(self) -> None:
        """A phase begins."""
        self.received = 0
        self.dropped = 0
        self.ended = False
