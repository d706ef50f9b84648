"""Execution of a run in a machine of this process."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._local.run_progress import RunProgress
from slipway._local.stdin_pipe import StdinPipe
from slipway._model.arguments import open_input
from slipway._model.events import Ended, Output, Preparing, Queued
from slipway._model.execution import AsyncExecution, check_signal
from slipway._model.options import Tty
from slipway._model.result import OutputFile, Provenance, Result, Timing
from slipway._run.job_request import JobRequest
from slipway._run.output_queue import OutputQueue
from slipway._run.run import Run
from slipway._util.errors import (
    HostError,
    InputError,
    SlipwayError,
    UnknownOutcome,
    drop_tracebacks,
)
from slipway._util.identifiers import create_identifier
from slipway._util.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._model.events import Event
    from slipway._model.run_request import RunRequest
    from slipway._run.slot import Slot
    from slipway_initramfs.languages.language import Language

log = logging.getLogger("slipway.runtime")
log.addHandler(logging.NullHandler())

# Unread output kept per run, in bytes. The agent's credit holds another window of each stream.
KEPT_OUTPUT = MIB
# An agent ends a job within milliseconds. After this time the machine is stopped instead.
CANCEL_SECONDS = 5.0


def build_job(
    language: Language, request: RunRequest, *, keep_files: bool = False
) -> tuple[JobRequest, StdinPipe | None]:
    """Build and check the job of ``request``. Without stdin the job reads a pipe of the handle's.

    Raises:
        InputError: the job cannot be run.
    """
    pipe, stdin = None, request.stdin
    if stdin is None:
        pipe = StdinPipe()
        stdin = pipe.read()
    elif isinstance(stdin, bytes):
        stdin = open_input(stdin, request.options)
    job = JobRequest(language, request.source, request.options, stdin, keep_files)
    job.check()
    return job, pipe


class LocalExecution(AsyncExecution):
    """Handle of ``job`` in ``slot``; ``pipe`` is the stdin of a job that the handle writes to.

    A job that keeps files shares the machine with other jobs: the machine is stopped only if the
    agent does not end the job.
    """

    def __init__(self, job: JobRequest, slot: Slot, pipe: StdinPipe | None) -> None:
        super().__init__(create_identifier(), job.language.name)
        self._job: JobRequest | None = job
        self._slot = slot
        self._pipe = pipe
        self._run: Run | None = Run(job, slot)
        self._events: OutputQueue[Event] = OutputQueue(KEPT_OUTPUT)
        self._progress = RunProgress(self._put)
        self._shares_machine = job.keep_files
        self._is_cancelled = False
        self._outcome: Result | SlipwayError | None = None
        self._last_report = ("", 0.0)
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Result | SlipwayError]
        self._ended = asyncio.Event()
        slot.progress = self._report_preparation

    def begin(self) -> None:
        """Enter the admission, and continue in a task.

        Raises:
            Busy: the queue is full.
            InputError: the run needs more than the capacity.
        """
        assert self._run is not None
        self._slot.enter(self._report_position)
        if self._slot.position is None:
            self._state = "booting"
        self._task = asyncio.create_task(self._execute(self._run), name=f"slipway-run-{self.id}")
        self._task.add_done_callback(self._on_task_done)

    @property
    def outcome(self) -> Result | SlipwayError | None:
        """The outcome, even before all events are read; see :attr:`AsyncExecution.outcome`."""
        return self._outcome

    @property
    def pending_bytes(self) -> int:
        """Bytes of unread output; see :attr:`AsyncExecution.pending_bytes`."""
        return self._events.size

    def call_when_ended(self, call: Callable[[LocalExecution], object]) -> None:
        """Call ``call`` with this handle when the machine is gone and the slot is free."""
        self._task.add_done_callback(lambda _: call(self))

    async def wait_ended(self) -> None:
        """Wait until the machine is gone and the slot is free; events may still be unread."""
        await self._ended.wait()

    async def signal(self, number: int) -> None:
        """Have the agent send the signal; see :meth:`AsyncExecution.signal`."""
        check_signal(number)
        if self._progress.phase is None or self._ended.is_set():
            raise InputError(
                f"no program of this run is running: it is {self.state}",
                "Wait for the event that a phase has started.",
            )
        if self._run is not None:
            await self._run.signal(number)

    async def resize(self, rows: int, columns: int) -> None:
        """Resize the terminal now, or when the job starts; see :meth:`AsyncExecution.resize`."""
        size = Tty(rows, columns)
        if self._run is not None:
            await self._run.resize(size)

    async def cancel(self) -> None:
        """Have the agent end the job, then stop the machine; see :meth:`AsyncExecution.cancel`."""
        if not self._is_cancelled and not self._ended.is_set():
            self._is_cancelled = True
            # The events may have no reader any more, and the agent's last output fits.
            self._events.lift_bound()
            progress = self._progress
            try:
                if progress.is_job_done:  # only the end of the machine is left to wait for
                    await self.wait_ended()
                elif progress.phase is not None or (self._shares_machine and progress.has_machine):
                    async with asyncio.timeout(CANCEL_SECONDS):
                        # Before its first phase the files of a job are still on their way.
                        await progress.job_started.wait()
                        if self._run is not None:
                            await self._run.cancel()
                        await asyncio.wait([self._task])
            except (TimeoutError, SlipwayError):
                pass  # the machine is stopped without an answer of the agent
            finally:
                self._task.cancel()
        await self.wait_ended()

    async def _next(self) -> Event:
        item = await self._events.take()
        if isinstance(item, tuple):
            phase, stream, data = item
            return Output(phase.name.lower(), stream.name.lower(), data)
        assert item is not None  # the queue is closed with an error
        return item

    async def _write(self, data: bytes) -> None:
        if self._pipe is None:
            raise InputError(
                "stdin was given with the run", "Start it with stdin=None to write to it."
            )
        await self._pipe.write(data)

    async def _end_input(self) -> None:
        if self._pipe is not None:
            self._pipe.close()

    def _on_task_done(self, task: asyncio.Task[Result | SlipwayError]) -> None:
        """Leave the slot and report the outcome; a cancelled task may not even have begun."""
        self._slot.leave()
        if self._pipe is not None:
            self._pipe.drop_reader()
        self._outcome = self._build_outcome(task)
        # The handle may live long; source and input files do not.
        self._run = self._job = None
        self._events.disconnect()
        self._progress.disconnect()
        if isinstance(self._outcome, Result):
            self._put(Ended(self._outcome))
        else:
            self._state, self._position = "ended", None
            self._events.close(self._outcome)
        self._progress.job_started.set()
        self._ended.set()

    def _build_outcome(self, task: asyncio.Task[Result | SlipwayError]) -> Result | SlipwayError:
        if task.cancelled():
            if self._is_cancelled:
                return self._build_cancelled_result()
            return UnknownOutcome("the event loop of the run has ended")
        if (error := task.exception()) is None:
            return task.result()
        log.error("a run ended by a bug", exc_info=error)
        return HostError(f"{type(error).__name__}: {error}", "This is a bug in Slipway.")

    async def _execute(self, run: Run) -> Result | SlipwayError:
        try:
            await self._slot.wait_admitted()
            self._state, self._position = "booting", None
            run.mark_admitted()
            return await run.execute(self._events, self._progress)
        except SlipwayError as error:
            # Returned, not raised: a task keeps the frames of its exception, and these hold this
            # handle and the job.
            drop_tracebacks(error)
            return error

    def _build_cancelled_result(self) -> Result:
        """Build the result of a run that was cancelled without an answer of the agent."""
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

    def _put(self, event: Event) -> None:
        self._update_state(event)
        if isinstance(event, Queued | Preparing):
            self._events.put_latest(event)
        else:
            self._events.put(event)

    def _report_position(self, position: int) -> None:
        self._put(Queued(position))

    def _report_preparation(self, line: str) -> None:
        """Report a line about an image build; called in the thread of the build."""
        kind, now = line.partition(" ")[0], time.monotonic()
        # A download reports many times a second; one line a second is enough.
        if kind != self._last_report[0] or now - self._last_report[1] >= 1:
            self._last_report = (kind, now)
            with suppress(RuntimeError):  # the loop ended before the build
                self._loop.call_soon_threadsafe(self._put_preparing, line)

    def _put_preparing(self, line: str) -> None:
        if not self._ended.is_set():
            self._put(Preparing(line))
