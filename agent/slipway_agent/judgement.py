"""Verdict on a phase, derived from the facts at its end."""

from __future__ import annotations

from dataclasses import dataclass

from slipway_protocol import messages as m


@dataclass(frozen=True, slots=True)
class ProgramEnd:
    """Facts about the end of a program.

    ``signal`` is 0 unless a signal ended the program. ``refused_memory`` says that the kernel has
    refused memory to the group, or killed processes because memory was short. ``tail`` is the end
    of stderr.
    """

    code: int
    signal: int
    cpu_us: int
    refused_memory: bool
    tail: bytes


def judge_end(
    command: m.Command, end: ProgramEnd, reason: m.Verdict | None
) -> tuple[m.Verdict, str]:
    """Return the verdict on a program that ended, and a detail for people or "".

    ``reason`` is the verdict for which the agent has ended the program, or None.
    """
    limits = command.limits
    # RLIMIT_CPU may end the program before the agent does.
    out_of_time = bool(end.signal and 0 < limits.cpu_ms * 1000 <= end.cpu_us)
    if reason is not None:
        return reason, _describe_reason(reason, limits)
    if not end.signal and not end.code:
        # The program has handled refused memory and the ends of its children.
        return m.Verdict.OK, ""
    if end.refused_memory:
        limit = limits.memory_bytes
        detail = f"the limit is {_format_size(limit)}" if limit else "the machine has no more"
        return m.Verdict.MEMORY_EXCEEDED, detail
    if out_of_time:
        return m.Verdict.CPU_EXCEEDED, _describe_reason(m.Verdict.CPU_EXCEEDED, limits)
    for words in command.out_of_memory:
        if words.encode("utf-8", "surrogateescape") in end.tail:
            return m.Verdict.MEMORY_EXCEEDED, f"the program reported: {words}"
    return (m.Verdict.SIGNALED if end.signal else m.Verdict.FAILED), ""


def _describe_reason(verdict: m.Verdict, limits: m.Limits) -> str:
    if verdict is m.Verdict.TIMED_OUT:
        return f"the time limit of {_format_seconds(limits.wall_ms)} passed"
    if verdict is m.Verdict.CPU_EXCEEDED:
        return f"the CPU time limit of {_format_seconds(limits.cpu_ms)} was used up"
    if verdict is m.Verdict.OUTPUT_EXCEEDED:
        return f"the output passed the limit of {_format_size(limits.output_bytes)}"
    return "the job was cancelled"


def _format_seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.10g} s"


def _format_size(octets: int) -> str:
    """Return ``octets`` in MiB or KiB where that is exact, else in bytes."""
    for bits, unit in ((20, "MiB"), (10, "KiB")):
        if octets and not octets % (1 << bits):
            return f"{octets >> bits} {unit}"
    return f"{octets} bytes"
