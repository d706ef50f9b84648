"""A booted machine with a ready agent in it: takes jobs, one after the other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._assets import start_machine
from slipway._errors import HostError, UnknownOutcome
from slipway._request import MIB, InputFile
from slipway._result import Captured, OutputFile, PhaseResult, Usage, Verdict
from slipway._session import Session
from slipway_initramfs.languages import ENVIRONMENT
from slipway_protocol import messages as m

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from slipway._assets import Assets
    from slipway._conversation import JobReport, PhaseReport, Sink
    from slipway._outlet import Watcher
    from slipway._request import Options
    from slipway.machine import Machine
    from slipway_initramfs.languages import Language, Limits

# A loaded host that emulates a guest in software needs most of it; nothing waits for it otherwise.
BOOT_SECONDS = 180.0
# The agent ends a phase that reached its limit. Where it is the agent that no longer answers, the
# host ends the machine this much later.
GRACE_SECONDS = 20.0
# The slowest that files may go into a guest; a loaded host that emulates manages ten times as much.
TRANSFER_RATE = MIB


class Guest:
    """A machine, its session, and what the agent said when it was ready."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        # When the machine's process was there: the end of all preparation.
        self.began = time.monotonic()
        self._session = Session(machine)
        self.ready: m.Ready | None = None
        self.boot_seconds = 0.0
        self.ready_seconds = 0.0

    @classmethod
    async def start(cls, assets: Assets, options: Options) -> Guest:
        """Start a machine; :meth:`wait_ready` waits for its agent.

        Raises:
            HostError: this host cannot run it.
        """
        machine, _ = await start_machine(assets, options)
        return cls(machine)

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
            words = await self.machine.last_words()
            raise HostError(
                f"the agent was not ready after {BOOT_SECONDS:g} s"
                + (f" ({words})" if words else "")
                + (f"; its console said:\n  {lines}" if lines else "; its console is empty"),
                "See how far the guest boots: slipway run --boot-log",
            ) from None
        assert self._session.awake_at is not None
        self.boot_seconds = self._session.awake_at - self.began
        self.ready_seconds = time.monotonic() - self._session.awake_at
        return self.ready

    async def run(
        self,
        language: Language,
        source: bytes,
        options: Options,
        sink: Sink,
        stdin: AsyncIterator[bytes] | None = None,
        watcher: Watcher | None = None,
    ) -> JobReport:
        """Run ``source`` and wait for its end; see :meth:`slipway._session.Session.run`.

        Raises:
            UnknownOutcome: the guest ended, or misbehaved.
        """
        job, files = describe_job(language, source, options, stdin is not None)
        walls = [c.limits.wall_ms / 1000 for c in (job.build, job.run) if c is not None]
        transfer = sum(len(file.data) for file in files) / TRANSFER_RATE
        try:
            async with asyncio.timeout(sum(walls) + transfer + GRACE_SECONDS) as deadline:
                patient = unhurried(sink, deadline)
                return await self._session.run(job, files, patient, stdin, watcher)
        except TimeoutError:
            raise UnknownOutcome(
                f"the job did not end within its time limits and {GRACE_SECONDS:g} s more",
                "The output until then has been passed on. Allow more time, or more memory.",
            ) from None

    async def signal(self, number: int) -> None:
        """Send signal ``number`` to the program that runs; raises UnknownOutcome."""
        await self._session.signal(number)

    async def cancel(self) -> None:
        """Have the agent end the job; raises UnknownOutcome."""
        await self._session.cancel()

    async def stop(self) -> None:
        """End the machine at once; nothing of it remains."""
        await self.machine.stop()
        await self._session.close()


def unhurried(sink: Sink, deadline: asyncio.Timeout) -> Sink:
    """``sink``, with ``deadline`` put off while it has not taken what it was given.

    A pager may keep the end of the output waiting for hours. That says nothing about the agent,
    which counts the program's time by itself.
    """
    waiting = 0
    rest = 0.0

    async def take(phase: m.Phase, stream: m.Stream, data: bytes) -> None:
        nonlocal waiting, rest
        clock = asyncio.get_running_loop().time
        when = deadline.when()
        if when is not None and not deadline.expired():
            rest = when - clock()
            deadline.reschedule(None)
        waiting += 1
        try:
            await sink(phase, stream, data)
        finally:
            waiting -= 1
            if not waiting and not deadline.expired():
                deadline.reschedule(clock() + rest)

    return take


def describe_job(
    language: Language, source: bytes, options: Options, with_stdin: bool
) -> tuple[m.Job, tuple[InputFile, ...]]:
    """The job and its files as the protocol has them."""
    environment = {**ENVIRONMENT, **language.environment, **dict(options.environment)}
    build = None
    if language.build is not None:
        build = m.Command(
            language.build.command,
            tuple(environment.items()),
            _limits(language.build.limits, options.build_timeout),
        )
    run = m.Command(
        (*language.run.command, *options.arguments),
        tuple(environment.items()),
        _run_limits(language.run.limits, options),
        stdin=with_stdin,
    )
    files = (InputFile(language.source, source), *options.files)
    return m.Job(0, build, run, options.outputs, 0), files


def _limits(default: Limits, wall: float | None) -> m.Limits:
    """A language's limits (seconds and MiB) in the protocol's units."""
    return m.Limits(
        wall_ms=_milliseconds(default.wall if wall is None else wall),
        cpu_ms=_milliseconds(default.cpu) if default.cpu else 0,
        memory_bytes=default.memory * MIB,
        processes=default.processes,
        file_bytes=default.file_size * MIB,
        open_files=default.open_files,
        output_bytes=default.output * MIB,
    )


def _run_limits(default: Limits, options: Options) -> m.Limits:
    limits = _limits(default, options.timeout)
    asked = {
        "cpu_ms": None if options.cpu_time is None else _milliseconds(options.cpu_time),
        "memory_bytes": options.memory_limit,
        "processes": options.processes,
        "output_bytes": options.output_limit,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    return replace(limits, kill_on_output=options.kill_on_output, **given)


def _milliseconds(seconds: float) -> int:
    """At least one: zero would mean that there is no limit."""
    return max(1, round(1000 * seconds))


def phase_results(
    report: JobReport, captured: Mapping[tuple[m.Phase, m.Stream], bytes | bytearray]
) -> dict[m.Phase, PhaseResult]:
    """The report's phases, with what was captured of their output."""
    return {
        phase: phase_result(told, {s: captured.get((phase, s), b"") for s in m.Stream})
        for phase, told in report.phases.items()
    }


def phase_result(told: PhaseReport, data: Mapping[m.Stream, bytes | bytearray]) -> PhaseResult:
    """What was told of one phase, with the output that was captured."""
    streams = [
        Captured(bytes(data.get(s, b"")), told.sent[s] + told.dropped[s], told.dropped[s])
        for s in (m.Stream.STDOUT, m.Stream.STDERR)
    ]
    usage = told.done.usage
    return PhaseResult(
        verdict=Verdict[told.done.verdict.name],
        code=told.done.code,
        signal=told.done.signal,
        usage=Usage(
            usage.wall_us / 1e6,
            usage.user_us / 1e6,
            usage.system_us / 1e6,
            usage.memory_peak_bytes,
            usage.processes_peak,
        ),
        stdout=streams[0],
        stderr=streams[1],
        detail=told.done.detail,
    )


def output_files(report: JobReport, wanted: tuple[str, ...]) -> tuple[OutputFile, ...]:
    """The files fetched back, in the order in which they were asked for."""
    files = []
    for path in wanted:
        if path in report.files:
            mode, data = report.files[path]
            files.append(OutputFile(path, mode, data))
        else:
            reason = report.missing.get(path, "the program did not run")
            files.append(OutputFile(path, missing=reason))
    return tuple(files)
