"""Results of a job, built from the agent's report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._model.result import Captured, OutputFile, PhaseLimits, PhaseResult, Usage, Verdict
from slipway_protocol import messages as m

if TYPE_CHECKING:
    from slipway._run.job_report import JobReport, PhaseReport


def build_phase_results(report: JobReport) -> dict[m.Phase, PhaseResult]:
    """Build the results of the report's phases, without their output."""
    return {phase: build_phase_result(each) for phase, each in report.phases.items()}


def build_phase_result(report: PhaseReport) -> PhaseResult:
    """Build the result of one phase, without its output."""
    streams = [
        Captured(b"", report.sent[s] + report.dropped[s], report.dropped[s])
        for s in (m.Stream.STDOUT, m.Stream.STDERR)
    ]
    usage = report.done.usage
    return PhaseResult(
        verdict=Verdict[report.done.verdict.name],
        code=report.done.code,
        signal=report.done.signal,
        usage=Usage(
            usage.wall_us / 1e6,
            usage.user_us / 1e6,
            usage.system_us / 1e6,
            usage.memory_peak_bytes,
            usage.processes_peak,
        ),
        stdout=streams[0],
        stderr=streams[1],
        detail=report.done.detail,
        limits=_build_limits(report.limits),
    )


def _build_limits(limits: m.Limits) -> PhaseLimits:
    """Build the limits of a phase by the names of their options; 0 means unlimited."""
    return PhaseLimits(
        timeout=limits.wall_ms / 1000 or None,
        cpu_time=limits.cpu_ms / 1000 or None,
        memory_limit=limits.memory_bytes or None,
        processes=limits.processes or None,
        open_files=limits.open_files or None,
        file_size=limits.file_bytes or None,
        output_limit=limits.output_bytes or None,
    )


def build_output_files(report: JobReport, wanted: tuple[str, ...]) -> tuple[OutputFile, ...]:
    """Build the output files, in the order of the paths in ``wanted``."""
    files = []
    for path in wanted:
        if path in report.files:
            mode, data = report.files[path]
            files.append(OutputFile(path, mode, data))
        else:
            reason = report.missing.get(path, "the program did not run")
            files.append(OutputFile(path, missing=reason))
    return tuple(files)
