"""Execution of a run in a machine of this process."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._local.pipes import EventQueue, StdinPipe
from slipway._model.arguments import stream_bytes
from slipway._model.errors import HostError, InputError, SlipwayError, UnknownOutcome
from slipway._model.events import (
    Ended,
    Output,
    PhaseEnded,
    PhaseStarted,
    Preparing,
    Queued,
    Started,
)
from slipway._model.execution import AsyncExecution, check_signal
from slipway._model.options import MIB, Tty
from slipway._model.result import OutputFile, Provenance, Result, Timing
from slipway._run.job_request import JobRequest
from slipway._run.run import Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from slipway._model.events import Event
    from slipway._model.options import Options
    from slipway._run.job_report import PhaseReport
    from slipway._run.slot import Slot
    from slipway_initramfs.languages.catalogue import Language
    from slipway_protocol.messages import Phase

log = logging.getLogger("slipway.runtime")
log.addHandler(logging.NullHandler())

# Output that waits for whoever takes the events. Behind it the agent's credit holds as much again.
KEPT_OUTPUT = MIB
# An agent ends a job within milliseconds; one that does not is not asked any longer.
CANCEL_SECONDS = 5.0


def request_job(
    language: Language,
    source: bytes,
    options: Options,
    stdin: bytes | AsyncIterator[bytes] | None,
    *,
    keep_files: bool = False,
) -> tuple[JobRequest, StdinPipe | None]:
    """Build and check a job. With ``stdin`` None a pipe is its stdin, for the handle to write to.

    Raises:
        InputError: the job cannot be run.
    """
    pipe = StdinPipe() if stdin is None else None
    if pipe is not None:
        stdin = pipe.read()
    elif isinstance(stdin, bytes):
        stdin = stream_bytes(stdin)
    job = JobRequest(language, source, options, stdin, keep_files)
    job.check()
    return job, pipe


class LocalExecution(AsyncExecution):
    """Handle of ``job`` in ``slot``; ``pipe`` is the job's stdin if the handle may write to it.

    The machine of a job that keeps its files is for other jobs as well: it is stopped only if the
    agent does not end the job.
    """

    def __init__(self, job: JobRequest, slot: Slot, pipe: StdinPipe | None) -> None:
        super().__init__(secrets.token_hex(16), job.language.name)
        self._job: JobRequest | None = job
        self._slot = slot
        self._pipe = pipe
        self._run: Run | None = Run(job, slot)
        self._has_terminal = bool(job.options.tty)
        self._events = EventQueue(KEPT_OUTPUT)
        self._phase: Phase | None = None
        self._shares_machine = job.keep_files
        self._has_machine = False
        self._has_begun = asyncio.Event()
        self._cancelled = False
        self._job_done = False
        self._outcome: Result | SlipwayError | None = None
        self._told = ("", 0.0)
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Result]
        self._over = asyncio.Event()
        slot.progress = self._progress

    def begin(self) -> None:
        """Enter the admission, and go on in a task.

        Raises:
            Busy: the queue is full.
            InputError: the run needs more than there is in all.
        """
        assert self._run is not None
        self._slot.enter(self._queued)
        if self._slot.position is None:
            self._state = "booting"
        self._task = asyncio.create_task(self._live(self._run), name=f"slipway-run-{self.id}")
        self._task.add_done_callback(self._finish)

    @property
    def outcome(self) -> Result | SlipwayError | None:
        """Known at the end, whoever takes the events; see :attr:`AsyncExecution.outcome`."""
        return self._outcome

    @property
    def untaken(self) -> int:
        """See :attr:`AsyncExecution.untaken`."""
        return self._events.size

    def when_over(self, call: Callable[[LocalExecution], object]) -> None:
        """Have ``call`` called when nothing of the run is left."""
        self._task.add_done_callback(lambda _: call(self))

    async def over(self) -> None:
        """Wait until nothing of the run is left, whoever takes its events."""
        await self._over.wait()

    async def signal(self, number: int) -> None:
        """Send it by the agent; see :meth:`AsyncExecution.signal`."""
        check_signal(number)
        if self._phase is None or self._over.is_set():
            raise InputError(
                f"no program of this run is running: it is {self.state}",
                "Wait for the event that a phase has started.",
            )
        if self._run is not None:
            await self._run.signal(number)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the agent, or change what it will be told; see :meth:`AsyncExecution.resize`."""
        size = Tty(rows, columns)
        if self._run is not None:
            await self._run.resize(size)

    async def cancel(self) -> None:
        """Ask the agent, and then end the machine; see :meth:`AsyncExecution.cancel`."""
        if not self._cancelled and not self._over.is_set():
            self._cancelled = True
            # Nobody may be taking events any more; what there still is fits.
            self._events.lift_bound()
            try:
                if self._job_done:  # nothing but the end of the machine is left to wait for
                    await self.over()
                elif self._phase is not None or (self._shares_machine and self._has_machine):
                    async with asyncio.timeout(CANCEL_SECONDS):
                        # Before its first phase the files of a job are still on their way.
                        await self._has_begun.wait()
                        if self._run is not None:
                            await self._run.cancel()
                        await asyncio.wait([self._task])
            except (TimeoutError, SlipwayError):
                pass  # it is ended without the agent's word
            finally:
                self._task.cancel()
        await self.over()

    async def _next(self) -> Event:
        return await self._events.take()

    async def _write(self, data: bytes) -> None:
        if self._pipe is None:
            raise InputError(
                "stdin was given with the run", "Start it with stdin=None to write to it."
            )
        await self._pipe.write(data)

    async def _end_input(self) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def _finish(self, task: asyncio.Task[Result]) -> None:
        """The run is over, however that came; a task may end before its first step."""
        self._slot.leave()
        if self._pipe is not None:
            self._pipe.hang_up()
        self._outcome = self._outcome_of(task)
        # The handle may live long; source and input files do not.
        self._run = self._job = None
        if isinstance(self._outcome, Result):
            self._put(Ended(self._outcome))
        else:
            self._state, self._position = "ended", None
            self._events.fail(self._outcome)
        self._has_begun.set()
        self._over.set()

    def _outcome_of(self, task: asyncio.Task[Result]) -> Result | SlipwayError:
        if task.cancelled():
            if self._cancelled:
                return self._cancelled_result()
            return UnknownOutcome("the event loop of the run has ended")
        if (error := task.exception()) is None:
            return task.result()
        if isinstance(error, SlipwayError):
            return error
        log.error("a run ended by a bug", exc_info=error)
        return HostError(f"{type(error).__name__}: {error}", "This is a bug of ours.")

    async def _live(self, run: Run) -> Result:
        await self._slot.wait_admitted()
        self._state, self._position = "booting", None
        run.mark_admitted()
        return await run.execute(self._output, _Watch(self))

    def _cancelled_result(self) -> Result:
        """Of a run whose agent had no say in it."""
        assert self._job is not None
        options = self._job.options
        image = self._job.language.image
        missing = "the run was cancelled"
        return Result(
            language=self.language,
            build=None,
            run=None,
            files=tuple(OutputFile(path, missing=missing) for path in options.outputs),
            timing=Timing(),
            provenance=Provenance("", "", image, "", "", 0, options.cpus),
            tty=bool(options.tty),
        )

    async def _output(self, phase: str, stream: str, data: bytes) -> None:
        await self._events.room()
        self._put(Output(phase, stream, data))

    def _put(self, event: Event) -> None:
        self._follow(event)
        self._events.put(event)

    def _queued(self, position: int) -> None:
        self._put(Queued(position))

    def _progress(self, line: str) -> None:
        """A line about an image that is being made; from whatever thread makes it."""
        kind, now = line.partition(" ")[0], time.monotonic()
        # Of a download there are many a second, and a line of each kind tells as much.
        if kind != self._told[0] or now - self._told[1] >= 1:
            self._told = (kind, now)
            with suppress(RuntimeError):  # the loop has ended before the image was made
                self._loop.call_soon_threadsafe(self._prepare, line)

    def _prepare(self, line: str) -> None:
        if not self._over.is_set():
            self._put(Preparing(line))

    def _finish_job(self) -> None:
        self._job_done = True
        self._events.lift_bound()

    def _boot(self, machine: str) -> None:
        self._has_machine = True
        self._put(Started(machine))

    def _begin(self, phase: Phase | None) -> None:
        self._phase = phase
        self._has_begun.set()


class _Watch:
    """Turns the steps of a run into events."""

    def __init__(self, execution: LocalExecution) -> None:
        self._execution = execution

    def booted(self, machine: str) -> None:
        self._execution._boot(machine)

    def began(self, phase: Phase) -> None:
        self._execution._begin(phase)
        self._execution._put(PhaseStarted(phase.name.lower()))

    def done(self) -> None:
        # The machine is not to be kept for whoever does not read: what is left is two windows.
        self._execution._finish_job()

    def ended(self, phase: Phase, report: PhaseReport) -> None:
        from slipway._run.results import phase_result

        self._execution._begin(None)
        self._execution._put(PhaseEnded(phase.name.lower(), phase_result(report, {})))
