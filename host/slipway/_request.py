"""What a caller asks for, checked before anything is started."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from slipway._errors import InputError
from slipway._values import Bounds, check_bounds, convert, declarations, take

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

MIB = 1024 * 1024
MAX_SOURCE = 4 * MIB
MAX_FILES = 256
MAX_FILE_BYTES = 256 * MIB
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
# Together with both phases' environments and the wanted paths these fit into one message of the
# protocol, which has at most 64 KiB.
MAX_ARGUMENTS = 512
MAX_ARGUMENT_BYTES = 16 * 1024
MAX_VARIABLES = 128
MAX_ENVIRONMENT_BYTES = 12 * 1024
MAX_OUTPUTS = 64
MAX_OUTPUT_PATH_BYTES = 4 * 1024

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


# What an option is declared as is what its values are held to: see slipway._values.
Seconds = Annotated[float, Bounds(0, MAX_SECONDS, above=True)]
Size = Annotated[int, Bounds(0, MAX_MEMORY, above=True)]
Share = Annotated[int, Bounds(MIN_MEMORY_LIMIT, MAX_MEMORY)]
Count = Annotated[int, Bounds(0, MAX_PROCESSES, above=True)]


@dataclass(frozen=True, slots=True, init=False)
class InputFile:
    """A file for the working directory: ``path`` there, and its bytes, or a text.

    Raises:
        InputError: one of them is of another type.
    """

    path: str
    data: bytes
    mode: int

    def __init__(self, path: str | os.PathLike[str], data: bytes | str, mode: int = 0o644) -> None:
        given = {"path": path, "data": data, "mode": mode}
        for name, kind in declarations(InputFile).items():
            value = convert(f"{name} of an InputFile", kind, given[name])
            object.__setattr__(self, name, value)


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
        _check_arguments(self.arguments)
        _check_environment(self.environment)
        _check_files(self.files, source_name)
        _check_outputs(self.outputs)


def options_of(given: Mapping[str, Any]) -> Options:
    """The options that a caller names.

    Raises:
        InputError: one is unknown, or has a value of the wrong type.
    """
    known = declarations(Options)
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "See slipway.Options."
            raise InputError(f"there is no option {name!r:.60}", hint)
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
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory", f"Name a {what} file.")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise InputError(f"cannot read {str(path)!r}: {error}") from None
    if len(data) > limit:
        raise InputError(
            f"{path} has more than {limit} bytes, the most that a file of this kind may have"
        )
    return data


def check_guest_path(path: str) -> None:
    """Check that ``path`` names something inside the working directory.

    Raises:
        InputError: it does not.
    """
    parts = path.split("/")
    if path.startswith("/") or any(p in {"", ".", ".."} or "\0" in p for p in parts):
        raise InputError(
            f"{path!r} is not a path inside the working directory",
            "Use a relative path without '.' and '..' parts.",
        )
    if len(path) > 4096 or any(_size([part]) > 255 for part in parts):
        raise InputError(f"the path {path[:40]!r}... is too long")


def _check_arguments(arguments: tuple[str, ...]) -> None:
    if len(arguments) > MAX_ARGUMENTS:
        raise InputError(f"{len(arguments)} arguments are more than {MAX_ARGUMENTS}")
    if any("\0" in argument for argument in arguments):
        raise InputError("an argument has a NUL")
    if _size(arguments) > MAX_ARGUMENT_BYTES:
        raise InputError(
            f"the arguments have more than {MAX_ARGUMENT_BYTES} bytes together",
            "Pass long input on stdin or as a file.",
        )


def _check_environment(environment: tuple[tuple[str, str], ...]) -> None:
    for name, value in environment:
        if not _ENVIRONMENT_NAME.fullmatch(name) or len(name) > 255:
            raise InputError(f"{name!r:.80} is not a name for an environment variable")
        if "\0" in value:
            raise InputError(f"the value of {name} has a NUL")
    if len(environment) > MAX_VARIABLES:
        raise InputError(f"{len(environment)} environment variables are more than {MAX_VARIABLES}")
    if _size([text for pair in environment for text in pair]) > MAX_ENVIRONMENT_BYTES:
        raise InputError(f"the environment has more than {MAX_ENVIRONMENT_BYTES} bytes")


def _check_outputs(paths: tuple[str, ...]) -> None:
    for path in paths:
        check_guest_path(path)
    if len(set(paths)) < len(paths):
        raise InputError("a file is asked for twice", "Name each wanted path once.")
    if len(paths) > MAX_OUTPUTS or _size(paths) > MAX_OUTPUT_PATH_BYTES:
        raise InputError(
            f"more than {MAX_OUTPUTS} files, or {MAX_OUTPUT_PATH_BYTES} bytes of paths, are wanted",
            "Let the program pack them into one archive.",
        )


def _size(texts: Iterable[str]) -> int:
    """Their bytes as they travel.

    Raises:
        InputError: one has a surrogate that stands for no byte.
    """
    try:
        return sum(len(text.encode("utf-8", "surrogateescape")) for text in texts)
    except UnicodeEncodeError as error:
        raise InputError(f"{error.object!r:.60} cannot be encoded as UTF-8") from None


def _check_files(files: tuple[InputFile, ...], source_name: str) -> None:
    if len(files) > MAX_FILES:
        raise InputError(f"{len(files)} files are more than {MAX_FILES}")
    if sum(len(file.data) for file in files) > MAX_FILE_BYTES:
        raise InputError(f"the files have more than {MAX_FILE_BYTES} bytes together")
    taken = {source_name: "the source"}
    for file in files:
        check_guest_path(file.path)
        if not 0 <= file.mode <= 0o777:
            raise InputError(
                f"the mode of {file.path!r} is {file.mode:o}, and must be from 0 to 777",
                "Give the permission bits only: stat.S_IMODE(mode) & 0o777.",
            )
        if file.path in taken:
            raise InputError(
                f"{file.path!r} is the name of two files: {taken[file.path]} and another",
                "Give one of them another name: --file LOCAL:GUEST",
            )
        taken[file.path] = "a file"
    for path in taken:
        parents = {str(p) for p in Path(path).parents} & taken.keys()
        if parents:
            raise InputError(f"{path!r} needs a directory where {parents.pop()!r} is a file")
