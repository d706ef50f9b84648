"""A booted machine with a ready agent in it: takes jobs, one after the other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slipway._model.errors import HostError, ImageError, UnknownOutcome
from slipway._model.options import Options
from slipway._run.agent_connection import Session
from slipway._run.deadline_pause import DeadlinePause
from slipway._run.job_message import Surroundings, describe_job
from slipway._run.job_request import JobRequest
from slipway._run.output_sink import OutputTail
from slipway._run.start_machine import start_machine
from slipway._sources import keep_names
from slipway._util.text import to_plain_line
from slipway._util.threads import run_shielded
from slipway._util.units import MIB
from slipway_protocol import messages as m

if TYPE_CHECKING:
    from slipway._model.input_file import InputFile
    from slipway._run.assets import Assets
    from slipway._run.job_report import JobReport
    from slipway._run.output_sink import JobObserver, OutputSink
    from slipway.machine.model import Machine
    from slipway_initramfs.languages.language import Language

# A loaded host that emulates a guest in software needs most of it; nothing waits for it otherwise.
BOOT_SECONDS = 180.0
# A clone's agent answers within a second on a loaded host; more is a machine that does not go on.
RESTORE_SECONDS = 60.0
# By how much a guest's clock may be late. On a busy host a greeting may take longer, and so may the
# next one.
CLOCK_SECONDS = 0.010
MAX_GREETINGS = 3
# The agent ends a phase that reached its limit. Where it is the agent that no longer answers, the
# host ends the machine this much later.
GRACE_SECONDS = 20.0
# The slowest that files may go into a guest; a loaded host that emulates manages ten times as much.
TRANSFER_RATE = MIB
# Of sources, in the event loop: some milliseconds.
MAX_READ_AT_ONCE = 64 * 1024
# Of what a sample program says before it fails.
SAID = 2000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a guest came from, as :class:`slipway._model.result.Provenance` has it."""

    start: str = "cold"
    start_reason: str = ""
    machine_reason: str = ""


class Guest:
    """A machine, its session, and what the agent said when it was ready."""

    def __init__(self, machine: Machine, origin: Origin | None = None) -> None:
        self.machine = machine
        self.origin = origin or Origin()
        # When the machine's process was there: the end of all preparation.
        self.began = time.monotonic()
        self._session = Session(machine)
        self.ready: m.Ready | None = None
        # What its first answer said that jobs have. Later ones say a little less or more, and the
        # command of a program that was started ahead has to be that of its job.
        self._memory = 0
        # No job is under way, and none was left in the middle: it may be given another.
        self.idle = True
        # Of files and directories that its session's runs have brought: see keep_names.
        self.names: frozenset[str] = frozenset()
        # Of the terminal of the job that is about to begin, where another is told.
        self._size: m.Tty | None = None
        self.boot_seconds = 0.0
        self.ready_seconds = 0.0
        self.restore_seconds = 0.0

    @classmethod
    async def start(cls, assets: Assets, options: Options) -> Guest:
        """Start a machine; :meth:`wait_ready` waits for its agent.

        Raises:
            HostError: this host cannot run it.
        """
        return cls(await start_machine(assets, options))

    async def wait_ready(self) -> m.Ready:
        """Until the agent answers.

        Raises:
            HostError: it does not.
        """
        try:
            async with asyncio.timeout(BOOT_SECONDS):
                self.ready = await self._session.hello()
        except TimeoutError:
            lines = "\n  ".join(self.machine.console.last_lines(6))
            words = await self.machine.read_exit_report()
            raise HostError(
                f"the agent was not ready after {BOOT_SECONDS:g} s"
                + (f" ({words})" if words else "")
                + (f"; its console said:\n  {lines}" if lines else "; its console is empty"),
                "See how far the guest boots: slipway run --boot-log",
            ) from None
        self._memory = self._memory or self.ready.memory_bytes
        assert self._session.awake_at is not None
        self.boot_seconds = self._session.awake_at - self.began
        self.ready_seconds = time.monotonic() - self._session.awake_at
        return self.ready

    async def wait_restored(self, *, clone: bool) -> m.Ready:
        """Until the agent of a machine that did not boot answers; see :meth:`Session.hello`.

        ``clone``: nobody has spoken to it since it was cloned.

        Raises:
            HostError: it does not.
        """
        try:
            async with asyncio.timeout(RESTORE_SECONDS):
                self.ready = await self._greeted(clone)
        except TimeoutError:
            words = await self.machine.read_exit_report()
            raise HostError(
                f"the agent did not go on within {RESTORE_SECONDS:g} s after it was cloned"
                + (f" ({words})" if words else "")
            ) from None
        except UnknownOutcome as error:  # it has had jobs, but none is under way
            raise HostError(error.message, error.hint) from None
        self._memory = self._memory or self.ready.memory_bytes
        self.restore_seconds = time.monotonic() - self.began
        return self.ready

    async def _greeted(self, clone: bool) -> m.Ready:
        """Say hello; to a clone until the time that it is told is still right when it has answered.

        The first that it hears was sent before it was restored. Each of the others makes its clock
        better, and none worse; one that has been greeted so needs no more than one.
        """
        ready = await self._session.hello(clone=clone)
        for _ in range(MAX_GREETINGS if clone else 0):
            began = time.monotonic()
            ready = await self._session.hello()
            if time.monotonic() - began <= CLOCK_SECONDS:
                break
        return ready

    async def rehearse(self, language: Language) -> None:
        """Run the language's sample program, if there is one: what has run once is faster.

        Raises:
            HostError: the guest ended.
            ImageError: the program failed.
        """
        if not language.sample:
            return
        tail = OutputTail(SAID)
        try:
            job = JobRequest(language, language.sample.encode(), Options())
            report = await self.run(job, tail)
        except UnknownOutcome as error:
            raise HostError(f"the sample program of {language.name}: {error.message}") from None
        if not report.succeeded:
            words = " ".join(to_plain_line(tail.data.decode("utf-8", "replace")).split())
            raise ImageError(
                f"the sample program of {language.name} fails: {words or 'it said nothing'}",
                "See what it says: slipway run; it is 'sample' of the language file.",
            )

    async def prepare(self, language: Language) -> None:
        """Do before the next job what can be: its interpreter is started, where it has one.

        Raises:
            HostError: the guest ended.
        """
        # Code that is translated as it runs has to be run once.
        if self.machine.hypervisor.is_emulated:
            await self._start_ahead(language)
            await self.rehearse(language)
            await self.wait_restored(clone=False)
        await self._start_ahead(language)

    async def _start_ahead(self, language: Language) -> None:
        if language.run.prestart:
            request = JobRequest(language, b"", Options())
            job, _ = describe_job(request, Surroundings(memory=self._memory))
            try:
                prestart = m.Prestart(job.run, language.source, language.run.prestart_unless)
                await self._session.prepare(prestart)
            except UnknownOutcome as error:
                raise HostError(error.message, error.hint) from None

    def taken(self, origin: Origin) -> None:
        """It has been waiting; what comes is timed from now on."""
        self.began = time.monotonic()
        self.origin = origin
        self.boot_seconds = self.ready_seconds = self.restore_seconds = 0.0

    async def fork(self) -> Guest:
        """A guest that begins as this one is now, between two jobs.

        Raises:
            HostError: it cannot be cloned; this one may have ended as well.
        """
        machine = self.machine
        snapshot = await machine.snapshot()
        try:
            await machine.resume()
        except BaseException:
            snapshot.close()
            raise
        template = await machine.hypervisor.open_template(snapshot)
        try:
            guest = Guest(await template.clone(), replace(self.origin, start="session"))
            guest.names = self.names
        except BaseException:
            await run_shielded(template.close())
            raise
        try:
            await run_shielded(template.close())
            await guest.wait_restored(clone=True)
        except BaseException:
            await run_shielded(guest.stop())
            raise
        return guest

    async def run(
        self, job: JobRequest, sink: OutputSink, observer: JobObserver | None = None
    ) -> JobReport:
        """Run ``job`` and wait for its end; see ``slipway._run.agent_connection.Session.run``.

        Raises:
            InputError: reading stdin failed, and the program was ended.
            UnknownOutcome: the guest ended, or misbehaved.
        """
        self._size = None
        message, files = await self._describe(job)
        if self._size is not None:  # another size came meanwhile
            message = replace(message, run=replace(message.run, tty=self._size))
        if job.keep_files:
            self.names = keep_names(self.names, job.language, job.options.files)
        commands = (message.build, message.run)
        walls = [command.limits.wall_ms / 1000 for command in commands if command is not None]
        transfer = sum(len(file.data) for file in files) / TRANSFER_RATE
        self.idle = False
        try:
            async with asyncio.timeout(sum(walls) + transfer + GRACE_SECONDS) as deadline:
                with DeadlinePause(sink, deadline) as patient:
                    report = await self._session.run(message, files, patient, job.stdin, observer)
        except TimeoutError:
            raise UnknownOutcome(
                f"the job did not end within its time limits and {GRACE_SECONDS:g} s more",
                "The output until then has been passed on. Allow more time, or more memory.",
            ) from None
        self.idle = True
        if report.failure is not None:
            raise report.failure
        return report

    async def _describe(self, job: JobRequest) -> tuple[m.Job, tuple[InputFile, ...]]:
        """Build the message of the job and its files; large sources are read in a thread."""
        options = job.options
        cpus = self.ready.cpus if self.ready is not None else options.cpus
        surroundings = Surroundings(cpus, self._memory, self.names)
        size = len(job.source) + sum(len(file.data) for file in options.files)
        if job.language.rules and size > MAX_READ_AT_ONCE:
            return await asyncio.to_thread(describe_job, job, surroundings)
        return describe_job(job, surroundings)

    async def signal(self, number: int) -> None:
        """Send signal ``number`` to the program that runs; raises UnknownOutcome."""
        await self._session.signal(number)

    async def resize(self, size: m.Tty) -> None:
        """Give the program's terminal another size; raises UnknownOutcome."""
        self._size = size
        await self._session.resize(size)

    async def cancel(self) -> None:
        """Have the agent end the job; raises UnknownOutcome."""
        await self._session.cancel()

    async def stop(self) -> None:
        """End the machine at once; nothing of it remains."""
        await self.machine.stop()
        await self._session.close()
