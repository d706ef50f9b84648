"""What became of a phase, from all that is known at its end."""

from __future__ import annotations

from dataclasses import dataclass

from slipway_protocol import messages as m


@dataclass(frozen=True, slots=True)
class Ending:
    """How the program ended.

    ``signal`` is 0 unless it ended the program. ``refused_memory``: the kernel has refused memory
    to its group, or killed it for want of it. ``tail`` is the end of what the program said on
    stderr.
    """

    code: int
    signal: int
    cpu_us: int
    refused_memory: bool
    tail: bytes


def judge_ending(
    command: m.Command, ending: Ending, reason: m.Verdict | None
) -> tuple[m.Verdict, str]:
    """The verdict on a program that ended, and what there is to say of it.

    ``reason`` is why the agent has ended it, if it has.
    """
    limits = command.limits
    # RLIMIT_CPU can be the first to notice.
    out_of_time = bool(ending.signal and 0 < limits.cpu_ms * 1000 <= ending.cpu_us)
    if reason is not None:
        return reason, _describe_reason(reason, limits)
    if not ending.signal and not ending.code:
        # Whatever was refused, or became of its children: it has come to terms with that.
        return m.Verdict.OK, ""
    if ending.refused_memory:
        limit = limits.memory_bytes
        told = f"the limit is {_format_size(limit)}" if limit else "the machine has no more"
        return m.Verdict.MEMORY_EXCEEDED, told
    if out_of_time:
        return m.Verdict.CPU_EXCEEDED, _describe_reason(m.Verdict.CPU_EXCEEDED, limits)
    for words in command.out_of_memory:
        if words.encode("utf-8", "surrogateescape") in ending.tail:
            told = f"it was refused memory, as it says itself: {words}"
            return m.Verdict.MEMORY_EXCEEDED, told
    return (m.Verdict.SIGNALED if ending.signal else m.Verdict.FAILED), ""


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
    """As a person writes it, where that is exact."""
    for bits, unit in ((20, "MiB"), (10, "KiB")):
        if octets and not octets % (1 << bits):
            return f"{octets >> bits} {unit}"
    return f"{octets} bytes"
