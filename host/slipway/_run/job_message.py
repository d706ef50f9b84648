"""Message of a job, built from its request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from slipway._model.input_file import InputFile
from slipway._model.options import Tty
from slipway._sources import arrange
from slipway._util.units import MIB
from slipway_initramfs.architectures import machine_architecture
from slipway_initramfs.languages.language import ENVIRONMENT
from slipway_protocol import messages as m

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.job_request import JobRequest
    from slipway_initramfs.languages.language import Limits


_T = TypeVar("_T", int, float)

# Soft limit that Linux gives a program by default; the program may raise it up to the hard limit.
SOFT_OPEN_FILES = 1024
# Placeholder in a language's command for the program's memory in MiB.
MEMORY = "{memory}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Surroundings of a job in its guest.

    ``cpus`` are those of the machine, ``memory`` is left for jobs, in bytes; ``taken`` are names in
    the workspace that earlier jobs of the session have brought. ``architecture`` is that of the
    machine, as Debian calls it; empty for that of this host.
    """

    cpus: int = 1
    memory: int = 0
    taken: frozenset[str] = frozenset()
    architecture: str = ""


def build_job_message(
    job: JobRequest, surroundings: Surroundings | None = None
) -> tuple[m.Job, tuple[InputFile, ...]]:
    """Build the message of ``job``, whose number the sender sets, and its files."""
    language, source, options = job.language, job.source, job.options
    surroundings = surroundings or Surroundings()
    architecture = surroundings.architecture or machine_architecture()
    arranged = arrange(language, source, options.files, surroundings.taken, architecture)
    environment = {**ENVIRONMENT, **language.environment, **dict(options.environment)}
    build = None
    if language.build is not None:
        build = m.Command(
            arranged.fill(language.build.command),
            tuple(environment.items()),
            _build_limits(language.build.limits, _select_build_limits(options), surroundings.cpus),
            out_of_memory=language.build.out_of_memory,
        )
    limits = _build_limits(language.run.limits, _select_run_limits(options), surroundings.cpus)
    mebibytes = str(_choose_reported_memory(limits, surroundings.memory) // MIB)
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
    message = m.Job(
        0,
        build,
        run,
        options.outputs,
        0,
        keep=job.keep_files,
        outputs_bytes=options.fetched_bytes,
    )
    return message, files


def convert_terminal_size(tty: Tty) -> m.Tty:
    """Convert the size of a terminal for the protocol."""
    return m.Tty(tty.rows, tty.columns)


@dataclass(frozen=True, slots=True)
class _LimitOptions:
    """Limits of one phase by the caller's options; None stands for the default of the language."""

    wall: float | None
    cpu: float | None
    memory: int | None
    processes: int | None = None
    open_files: int | None = None
    file_size: int | None = None
    output: int | None = None


def _select_build_limits(options: Options) -> _LimitOptions:
    return _LimitOptions(options.build_timeout, options.build_cpu_time, options.build_memory_limit)


def _select_run_limits(options: Options) -> _LimitOptions:
    return _LimitOptions(
        options.timeout,
        options.cpu_time,
        options.memory_limit,
        options.processes,
        options.open_files,
        options.file_size,
        options.output_limit,
    )


def _build_limits(default: Limits, asked: _LimitOptions, cpus: int) -> m.Limits:
    """Build the limits of a phase from the language's (seconds, MiB) and the caller's.

    By default open files have a soft limit as well: a program that needs many raises it.
    """
    cpu = _choose_cpu_seconds(default, asked, cpus)
    hard = _choose(asked.open_files, default.open_files)
    return m.Limits(
        wall_ms=_convert_to_ms(_choose(asked.wall, default.wall)),
        cpu_ms=_convert_to_ms(cpu) if cpu else 0,
        memory_bytes=_choose(asked.memory, default.memory * MIB),
        processes=_choose(asked.processes, default.processes),
        file_bytes=_choose(asked.file_size, default.file_size * MIB),
        open_files=hard,
        output_bytes=_choose(asked.output, default.output * MIB),
        soft_open_files=min(hard, SOFT_OPEN_FILES) if asked.open_files is None else 0,
    )


def _choose_reported_memory(limits: m.Limits, memory: int) -> int:
    """Choose the memory that a command names: the machine's, unless the limit is far below.

    The command is then the same as that of a prestarted program.
    """
    limit = limits.memory_bytes
    return limit if limit and (limit < memory // 2 or not memory) else memory


def _choose_cpu_seconds(default: Limits, asked: _LimitOptions, cpus: int) -> float:
    """Choose the limit of CPU time; a default never cuts into the caller's wall-clock limit."""
    if asked.cpu is not None:
        return asked.cpu
    if asked.wall is None or not default.cpu:
        return default.cpu
    return max(default.cpu, asked.wall * cpus)


def _choose(asked: _T | None, default: _T) -> _T:
    return default if asked is None else asked


def _convert_to_ms(seconds: float) -> int:
    """Convert to milliseconds, at least 1: 0 means unlimited."""
    return max(1, round(1000 * seconds))
