"""What a caller asks for, checked before anything is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003  # the declarations of options are looked up
from typing import TYPE_CHECKING, Annotated, Any

from slipway._model.bounds import (
    check_arguments,
    check_environment,
    check_files,
    check_outputs,
)
from slipway._model.errors import InputError
from slipway._model.input_file import InputFile  # noqa: TC001  # looked up, as Path is
from slipway._model.values import Bounds, check_bounds, convert, declarations, take
from slipway._util.public import public

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1024 * 1024
MAX_SOURCE = 4 * MIB
MAX_CPUS = 8
MAX_MEMORY = 64 * 1024 * MIB
# The most process ids that Linux has (PID_MAX_LIMIT).
MAX_PROCESSES = 4 * 1024 * 1024
# Linux counts the rows and columns of a terminal in 16 bits.
MAX_CHARACTERS = 0xFFFF
# The most that Linux lets a process open (fs.nr_open).
MAX_OPEN_FILES = 1024 * 1024
# With less not even the smallest program starts.
MIN_MEMORY_LIMIT = 4 * MIB
# An hour: a machine that is meant to live longer is not what a snippet needs.
MAX_SECONDS = 3600.0

# What an option is declared as is what its values are held to: see slipway._model.values.
Seconds = Annotated[float, Bounds(0, MAX_SECONDS, above=True)]
Size = Annotated[int, Bounds(0, MAX_MEMORY, above=True)]
Share = Annotated[int, Bounds(MIN_MEMORY_LIMIT, MAX_MEMORY)]
Count = Annotated[int, Bounds(0, MAX_PROCESSES, above=True)]


@public
@dataclass(frozen=True, slots=True)
class Tty:
    """The size of a program's terminal, in characters.

    Raises:
        InputError: one of them is no number, or out of its bounds.
    """

    rows: Annotated[int, Bounds(1, MAX_CHARACTERS)] = 24
    columns: Annotated[int, Bounds(1, MAX_CHARACTERS)] = 80

    def __post_init__(self) -> None:
        for name, kind in declarations(Tty).items():
            value = take(f"{name} of a terminal", kind, getattr(self, name))
            object.__setattr__(self, name, value)


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run. Times in seconds, sizes in bytes; None is the language's default.

    ``memory`` is the machine's, rounded up to whole MiB, ``memory_limit`` the program's share of it
    (None: all that the system leaves), ``build_memory_limit`` the build's. Without ``memory`` the
    machine is as large as they need. A ``timeout`` that is longer than the language's raises
    ``cpu_time``, where that is not given, to what all ``cpus`` do meanwhile; so it is with those
    of the build. ``output_limit`` holds for each of stdout and stderr; what is over is dropped,
    counted and marked, and with ``kill_on_output`` ends the program.
    With ``tty`` the program has a terminal; True is one of 24 rows and 80 columns.

    Lists do for tuples, a mapping for the pairs of ``environment``, and a text for a path.

    Raises:
        InputError: a value is of another type than its field is declared to be.
    """

    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    files: tuple[InputFile, ...] = ()
    outputs: tuple[str, ...] = ()
    timeout: Seconds | None = None
    build_timeout: Seconds | None = None
    cpu_time: Seconds | None = None
    build_cpu_time: Seconds | None = None
    memory: Size | None = None
    memory_limit: Share | None = None
    build_memory_limit: Share | None = None
    processes: Count | None = None
    open_files: Annotated[int, Bounds(0, MAX_OPEN_FILES, above=True)] | None = None
    file_size: Size | None = None
    output_limit: Size | None = None
    kill_on_output: bool = False
    tty: bool | Tty = False
    cpus: Annotated[int, Bounds(1, MAX_CPUS)] = 1
    machine: str = "auto"
    kernel: Path | None = None
    boot_log: bool = False

    def __post_init__(self) -> None:
        for name, kind in declarations(Options).items():
            object.__setattr__(self, name, convert(name, kind, getattr(self, name)))
        if self.tty is True:
            object.__setattr__(self, "tty", Tty())

    def check(self, source_name: str) -> None:
        """Check every bound that does not depend on the image.

        Raises:
            InputError: the first that does not hold.
        """
        for name, kind in declarations(Options).items():
            check_bounds(name, kind, getattr(self, name))
        check_arguments(self.arguments)
        check_environment(self.environment)
        check_files(self.files, source_name)
        check_outputs(self.outputs)


def options_of(given: Mapping[str, Any]) -> Options:
    """The options that a caller names.

    Raises:
        InputError: one is unknown, or has a value of the wrong type.
    """
    known = declarations(Options)
    for name in given:
        if name not in known:
            from slipway._util.near_names import hint_at

            hint = hint_at(name, known, "See slipway.Options.")
            raise InputError(f"unknown option {name!r:.60}", hint)
    return Options(**given)


def check_source(source: bytes) -> None:
    """Check that ``source`` is not too long.

    What is in it is for the language's own tools to judge: an empty program, another encoding than
    UTF-8, bytes that are no text at all.

    Raises:
        InputError: it is too long.
    """
    if len(source) > MAX_SOURCE:
        raise InputError(
            f"the source has {len(source)} bytes, and at most {MAX_SOURCE} are allowed",
            "Pass data as a file beside the source (--file) or on stdin.",
        )


def read_local(path: Path, limit: int, what: str) -> bytes:
    """The bytes of a file of the caller's, at most ``limit`` of them.

    Raises:
        InputError: it cannot be read, is no file, or is longer.
    """
    named = f"{'an' if what[0] in 'aeiou' else 'a'} {what} file"
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory", f"Name {named}.")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", f"Name {named} that can be read."
        ) from None
    except ValueError as error:  # a NUL in the path
        raise InputError(
            f"cannot read {str(path)!r}: {error}", f"Name {named} that can be read."
        ) from None
    if len(data) > limit:
        raise InputError(
            f"{path} has more than {limit} bytes, the most that a file of this kind may have",
            "Compress it, or have the program make what it can.",
        )
    return data
