"""A job as the protocol has it, from a language and what a caller asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from slipway._model.input_file import InputFile
from slipway._model.options import Tty
from slipway._sources import arrange
from slipway._util.units import MIB
from slipway_initramfs.languages.language import ENVIRONMENT
from slipway_protocol import messages as m

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.job_request import JobRequest
    from slipway_initramfs.languages.language import Limits


_T = TypeVar("_T", int, float)

# What a program begins with on any Linux; it may raise it to the limit.
SOFT_OPEN_FILES = 1024
# Stands in a language's command for the program's memory in MiB, for runtimes that want to be told.
MEMORY = "{memory}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a job is to run.

    ``cpus`` are the machine's, ``memory`` is what it leaves its jobs; ``taken`` are the names that
    earlier jobs have brought into its directory.
    """

    cpus: int = 1
    memory: int = 0
    taken: frozenset[str] = frozenset()


def build_job_message(
    job: JobRequest, surroundings: Surroundings | None = None
) -> tuple[m.Job, tuple[InputFile, ...]]:
    """Build the message of ``job``, whose number the sender sets, and its files."""
    language, source, options = job.language, job.source, job.options
    surroundings = surroundings or Surroundings()
    arranged = arrange(language, source, options.files, surroundings.taken)
    environment = {**ENVIRONMENT, **language.environment, **dict(options.environment)}
    build = None
    if language.build is not None:
        build = m.Command(
            arranged.fill(language.build.command),
            tuple(environment.items()),
            _limits(language.build.limits, _build_demands(options), surroundings.cpus),
            out_of_memory=language.build.out_of_memory,
        )
    limits = _limits(language.run.limits, _demands(options), surroundings.cpus)
    mebibytes = str(_told_memory(limits, surroundings.memory) // MIB)
    filled = arranged.fill(language.run.command)
    command = (part.replace(MEMORY, mebibytes) for part in filled)
    run = m.Command(
        (*command, *options.arguments),
        tuple(environment.items()),
        replace(limits, kill_on_output=options.kill_on_output),
        stdin=job.stdin is not None,
        tty=convert_terminal_size(options.tty) if isinstance(options.tty, Tty) else None,
        out_of_memory=language.run.out_of_memory,
    )
    files = (InputFile(arranged.source, source), *options.files, *arranged.files)
    return m.Job(0, build, run, options.outputs, 0, keep=job.keep_files), files


def convert_terminal_size(tty: Tty) -> m.Tty:
    """The size of a terminal as the protocol has it."""
    return m.Tty(tty.rows, tty.columns)


@dataclass(frozen=True, slots=True)
class _Demands:
    """What a caller says of one phase's limits; None is the language's."""

    wall: float | None
    cpu: float | None
    memory: int | None
    processes: int | None = None
    open_files: int | None = None
    file_size: int | None = None
    output: int | None = None


def _build_demands(options: Options) -> _Demands:
    return _Demands(options.build_timeout, options.build_cpu_time, options.build_memory_limit)


def _demands(options: Options) -> _Demands:
    return _Demands(
        options.timeout,
        options.cpu_time,
        options.memory_limit,
        options.processes,
        options.open_files,
        options.file_size,
        options.output_limit,
    )


def _limits(default: Limits, asked: _Demands, cpus: int) -> m.Limits:
    """A language's limits (seconds and MiB), or those that are asked for, as the protocol has them.

    Open files are limited softly where nobody asks: programs that count on many know how to.
    """
    cpu = _cpu_seconds(default, asked, cpus)
    hard = _first(asked.open_files, default.open_files)
    return m.Limits(
        wall_ms=_milliseconds(_first(asked.wall, default.wall)),
        cpu_ms=_milliseconds(cpu) if cpu else 0,
        memory_bytes=_first(asked.memory, default.memory * MIB),
        processes=_first(asked.processes, default.processes),
        file_bytes=_first(asked.file_size, default.file_size * MIB),
        open_files=hard,
        output_bytes=_first(asked.output, default.output * MIB),
        soft_open_files=min(hard, SOFT_OPEN_FILES) if asked.open_files is None else 0,
    )


def _told_memory(limits: m.Limits, memory: int) -> int:
    """What a runtime is told to have: the machine's memory, while the limit is not far below.

    So the command is that of a program that was started ahead.
    """
    limit = limits.memory_bytes
    return limit if limit and (limit < memory // 2 or not memory) else memory


def _cpu_seconds(default: Limits, asked: _Demands, cpus: int) -> float:
    """The limit of CPU time: never one that cuts into a wall-clock time that was asked for."""
    if asked.cpu is not None:
        return asked.cpu
    if asked.wall is None or not default.cpu:
        return default.cpu
    return max(default.cpu, asked.wall * cpus)


def _first(asked: _T | None, default: _T) -> _T:
    return default if asked is None else asked


def _milliseconds(seconds: float) -> int:
    """At least one: zero would mean that there is no limit."""
    return max(1, round(1000 * seconds))
