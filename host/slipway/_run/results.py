"""Results of what a guest has told of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._model.result import Captured, OutputFile, PhaseLimits, PhaseResult, Usage, Verdict
from slipway_protocol import messages as m

if TYPE_CHECKING:
    from slipway._run.job_report import JobReport, PhaseReport


def build_phase_results(report: JobReport) -> dict[m.Phase, PhaseResult]:
    """The report's phases, without their output."""
    return {phase: build_phase_result(told) for phase, told in report.phases.items()}


def build_phase_result(told: PhaseReport) -> PhaseResult:
    """What was told of one phase, without its output."""
    streams = [
        Captured(b"", told.sent[s] + told.dropped[s], told.dropped[s])
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
        limits=_limits(told.limits),
    )


def _limits(limits: m.Limits) -> PhaseLimits:
    """The limits of a phase by their options' names; zero is none."""
    return PhaseLimits(
        timeout=limits.wall_ms / 1000 or None,
        cpu_time=limits.cpu_ms / 1000 or None,
        memory_limit=limits.memory_bytes or None,
        processes=limits.processes or None,
        open_files=limits.open_files or None,
        file_size=limits.file_bytes or None,
        output_limit=limits.output_bytes or None,
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
