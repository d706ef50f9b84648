"""A job as the protocol has it, from a language and what a caller asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._request import MIB, InputFile, Tty
from slipway._sources import arrange
from slipway_initramfs.languages import ENVIRONMENT
from slipway_protocol import messages as m

if TYPE_CHECKING:
    from slipway._request import Options
    from slipway_initramfs.languages import Language, Limits


def describe_job(
    language: Language,
    source: bytes,
    options: Options,
    with_stdin: bool,
    taken: frozenset[str] = frozenset(),
) -> tuple[m.Job, tuple[InputFile, ...]]:
    """The job and its files as the protocol has them.

    ``taken`` are the names that earlier jobs have brought into its directory.
    """
    arranged = arrange(language, source, options.files, taken)
    environment = {**ENVIRONMENT, **language.environment, **dict(options.environment)}
    build = None
    if language.build is not None:
        build = m.Command(
            arranged.fill(language.build.command),
            tuple(environment.items()),
            _limits(language.build.limits, options.build_timeout),
        )
    run = m.Command(
        (*arranged.fill(language.run.command), *options.arguments),
        tuple(environment.items()),
        _run_limits(language.run.limits, options),
        stdin=with_stdin,
        tty=terminal_size(options.tty) if isinstance(options.tty, Tty) else None,
    )
    files = (InputFile(arranged.source, source), *options.files, *arranged.files)
    return m.Job(0, build, run, options.outputs, 0), files


def terminal_size(tty: Tty) -> m.Tty:
    """The size of a terminal as the protocol has it."""
    return m.Tty(tty.rows, tty.columns)


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
