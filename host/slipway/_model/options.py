"""Run options, each declared once, and their validation."""

# Not "from __future__ import annotations": the types of options are read at each start.
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from slipway._model.bounds import (
    DEFAULT_FETCH_LIMIT,
    MAX_ARGUMENTS,
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_OUTPUTS,
    MAX_VARIABLES,
    check_arguments,
    check_choice,
    check_count,
    check_environment,
    check_files,
    check_outputs,
)
from slipway._model.input_file import InputFile
from slipway._model.network import Network
from slipway._model.option import Group, Option, read_options
from slipway._model.values import Bounds, check_bounds, check_value, convert, read_field_types
from slipway._util.errors import InputError
from slipway._util.public import public
from slipway._util.units import GIB, MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SOURCE = 4 * MIB
MAX_CPUS = 8
MAX_MEMORY = 64 * GIB
# The most process ids that Linux has (PID_MAX_LIMIT).
MAX_PROCESSES = 4 * 1024 * 1024
# Linux counts the rows and columns of a terminal in 16 bits.
MAX_CHARACTERS = 0xFFFF
# The most that Linux lets a process open (fs.nr_open).
MAX_OPEN_FILES = 1024 * 1024
# Even the smallest program needs this much.
MIN_MEMORY_LIMIT = 4 * MIB
# An hour: long-lived machines are not the purpose of Slipway.
MAX_SECONDS = 3600.0

# Kernels that a store may have, by name.
KERNEL_NAMES = ("debian", "small")
# Several options of a command line, which together make one value.
NETWORK_FLAGS = ("--network", "--allow", "--publish", "--network-limit", "--network-rate")

# slipway._model.values converts a value to the declared type and checks its bounds.
Seconds = Annotated[float, Bounds(0, MAX_SECONDS, above=True, unit="s")]
Size = Annotated[int, Bounds(0, MAX_MEMORY, above=True, unit="bytes")]
Share = Annotated[int, Bounds(MIN_MEMORY_LIMIT, MAX_MEMORY, unit="bytes")]
Count = Annotated[int, Bounds(0, MAX_PROCESSES, above=True)]
FetchedSize = Annotated[int, Bounds(0, MAX_FILE_BYTES, above=True, unit="bytes")]
FileCount = Annotated[int, Bounds(0, MAX_OPEN_FILES, above=True)]


@public
@dataclass(frozen=True, slots=True)
class Tty:
    """Size of a program's terminal, in characters.

    Raises:
        InputError: a value is not an integer, or out of bounds.
    """

    rows: Annotated[int, Bounds(1, MAX_CHARACTERS)] = 24
    columns: Annotated[int, Bounds(1, MAX_CHARACTERS)] = 80

    def __post_init__(self) -> None:
        for name, kind in read_field_types(Tty).items():
            value = check_value(f"{name} of a terminal", kind, getattr(self, name))
            object.__setattr__(self, name, value)


@public
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a run. Times in seconds, sizes in bytes; None is the language's default.

    ``memory`` of the machine is rounded up to whole MiB; without it, the machine is as large as the
    limits need. ``memory_limit`` is the program's part (None: all memory that the system leaves),
    ``build_memory_limit`` that of the build. A ``timeout`` over the language's default raises the
    default of ``cpu_time`` to that time on all ``cpus``; likewise for the build. ``output_limit``
    holds for stdout and stderr each. Output over the limit is dropped and counted, and ends the
    program with ``kill_on_output``. ``tty=True`` is a terminal of 24 rows and 80 columns.

    Lists are accepted for tuples, a mapping for ``environment``, and a text for a path. ``kernel``
    is ``small``, ``debian`` or a path; a file with such a name is ``./small``.

    Raises:
        InputError: a value is of another type than its field.
    """

    arguments: Annotated[
        tuple[str, ...],
        Option(
            "command-line arguments of the program",
            Group.PROGRAM,
            flags=("--",),
            most_items=MAX_ARGUMENTS,
        ),
    ] = ()
    environment: Annotated[
        tuple[tuple[str, str], ...],
        Option(
            "environment variables of build and program",
            Group.PROGRAM,
            flags=("--env",),
            metavar="NAME=VALUE",
            most_items=MAX_VARIABLES,
        ),
    ] = ()
    files: Annotated[
        tuple[InputFile, ...],
        Option(
            "files for the working directory",
            Group.PROGRAM,
            command_help="or directories of files",
            schema_help="Each has text or base64.",
            flags=("--file",),
            metavar="LOCAL[:GUEST]",
            most_items=MAX_FILES,
        ),
    ] = ()
    outputs: Annotated[
        tuple[str, ...],
        Option(
            "files to fetch from the working directory after the run",
            Group.PROGRAM,
            flags=("--get",),
            metavar="GUEST[:LOCAL]",
            most_items=MAX_OUTPUTS,
        ),
    ] = ()
    fetch_limit: Annotated[
        FetchedSize | None,
        Option("size of all fetched files together; a file that does not fit is missing"),
    ] = None
    timeout: Annotated[Seconds | None, Option("wall-clock time of the program")] = None
    build_timeout: Annotated[Seconds | None, Option("wall-clock time of the build")] = None
    cpu_time: Annotated[
        Seconds | None,
        Option("CPU time of the program; by default at least its wall-clock time on all CPUs"),
    ] = None
    build_cpu_time: Annotated[
        Seconds | None,
        Option("CPU time of the build; by default at least its wall-clock time on all CPUs"),
    ] = None
    memory: Annotated[
        Size | None,
        Option("memory of the machine; by default as much as the limits need", Group.MACHINE),
    ] = None
    memory_limit: Annotated[
        Share | None, Option("memory of the program; less than that of the machine")
    ] = None
    build_memory_limit: Annotated[
        Share | None, Option("memory of the build; less than that of the machine")
    ] = None
    processes: Annotated[Count | None, Option("processes and threads of the program")] = None
    open_files: Annotated[
        FileCount | None,
        Option("files that each process of the program may have open"),
    ] = None
    file_size: Annotated[Size | None, Option("size of each file that the program writes")] = None
    output_limit: Annotated[
        Size | None, Option("size of stdout, and of stderr; the rest is dropped")
    ] = None
    kill_on_output: Annotated[bool, Option("end a program that exceeds its output limit")] = False
    tty: Annotated[
        bool | Tty,
        Option(
            "run the program in a terminal",
            Group.PROGRAM,
            schema_help="True is one of 24 rows and 80 columns. Output before a crash is kept, "
            "prompts come before their input, stdin is echoed, and all output is stdout.",
            flags=("-t", "--tty"),
        ),
    ] = False
    cpus: Annotated[int, Bounds(1, MAX_CPUS), Option("CPUs of the machine", Group.MACHINE)] = 1
    machine: Annotated[
        str,
        Option("hypervisor of the machine", Group.MACHINE, choices=("auto", "kvm", "qemu")),
    ] = "auto"
    arch: Annotated[
        str,
        Option(
            "architecture of the machine; auto is that of the host",
            Group.MACHINE,
            schema_help="Another one than the host's is emulated, which is slow.",
            choices=("auto", "amd64", "arm64"),
        ),
    ] = "auto"
    port: Annotated[
        str,
        Option(
            "port between host and agent; auto is virtio, or serial for a kernel without virtio",
            Group.MACHINE,
            choices=("auto", "virtio", "serial", "tcp"),
        ),
    ] = "auto"
    network: Annotated[
        Network | None,
        Option(
            "destinations that the machine may connect to",
            Group.MACHINE,
            schema_help="Also ports of the machine that the host listens for.",
            flags=NETWORK_FLAGS,
        ),
    ] = None
    kernel: Annotated[
        str | Path | None,
        Option(
            "guest kernel: small or debian",
            Group.MACHINE,
            command_help="or a vmlinux or bzImage file, for arm64 an Image file",
            default_help="the store's choice",
            local=True,
            names=KERNEL_NAMES,
            metavar="NAME|PATH",
        ),
    ] = None
    boot_log: Annotated[
        bool, Option("show the console of the guest on stderr", Group.MACHINE, local=True)
    ] = False

    def __post_init__(self) -> None:
        # Most runs leave most options out. A default has its type and is within its bounds.
        for name, option in OPTIONS.items():
            if (value := getattr(self, name)) is not option.default:
                object.__setattr__(self, name, convert(name, option.kind, value))
        if self.tty is True:
            object.__setattr__(self, "tty", Tty())
        if isinstance(self.kernel, str) and self.kernel not in KERNEL_NAMES:
            object.__setattr__(self, "kernel", convert("kernel", Path, self.kernel))

    @property
    def fetched_bytes(self) -> int:
        """Bytes that the output files of the run may have together."""
        if not self.outputs:
            return 0
        return DEFAULT_FETCH_LIMIT if self.fetch_limit is None else self.fetch_limit

    def check(self, source_name: str) -> None:
        """Check all bounds that do not depend on the image.

        Raises:
            InputError: a value is out of bounds.
        """
        for name, option in OPTIONS.items():
            if (value := getattr(self, name)) is option.default:
                continue
            check_bounds(name, option.kind, value)
            if option.choices:
                check_choice(name, value, option.choices)
            if option.most_items is not None:
                check_count(name, len(value), option.most_items, "Use fewer items.")
        check_arguments(self.arguments)
        check_environment(self.environment)
        check_files(self.files, source_name)
        check_outputs(self.outputs)


# All run options by name, in the order of the fields of Options.
OPTIONS = read_options(Options)
# Options that belong to a session and not to its runs.
MACHINE_OPTIONS = tuple(option.name for option in OPTIONS.values() if option.group is Group.MACHINE)


def build_options(given: "Mapping[str, Any]") -> Options:
    """Return the options of a caller.

    Raises:
        InputError: an option is unknown, or a value is of another type.
    """
    for name in given:
        if name not in OPTIONS:
            from slipway._util.near_names import suggest_name

            hint = suggest_name(name, OPTIONS, "See slipway.Options.")
            raise InputError(f"unknown option {name!r:.60}", hint)
    return Options(**given)


def check_source(source: bytes) -> None:
    """Check the size of ``source``.

    The language's own tools judge the content: empty, in any encoding, or binary.

    Raises:
        InputError: the source is too large.
    """
    if len(source) > MAX_SOURCE:
        raise InputError(
            f"the source has {len(source)} bytes, and at most {format_size(MAX_SOURCE)}"
            " are allowed",
            "Pass data as a file beside the source (--file) or on stdin.",
        )


def read_local_file(path: Path, limit: int, what: str) -> bytes:
    """Return the bytes of a local file.

    Raises:
        InputError: the file cannot be read, or is larger than ``limit`` bytes.
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
            f"{path} has more than {format_size(limit)}, the limit for {named}",
            "Compress the file, or generate its content in the program.",
        )
    return data
