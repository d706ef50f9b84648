"""Bounds of the texts and files of a request: number, size and names."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from slipway._model.values import encode_text
from slipway._util.errors import InputError
from slipway._util.units import KIB, MIB, format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway._model.input_file import InputFile

MAX_FILES = 256
MAX_FILE_BYTES = 256 * MIB
# Bytes of all output files of a run together, if it has no fetch_limit.
DEFAULT_FETCH_LIMIT = 64 * MIB
# Together with the environments of both phases and the output paths these fit into one message of
# the protocol, at most 64 KiB.
MAX_ARGUMENTS = 512
MAX_ARGUMENT_BYTES = 16 * KIB
MAX_VARIABLES = 128
MAX_ENVIRONMENT_BYTES = 12 * KIB
MAX_OUTPUTS = 64
MAX_OUTPUT_PATH_BYTES = 4 * KIB
# Bytes of a part of a path (NAME_MAX), and of a variable's name.
MAX_NAME = 255
MAX_PATH = 4096
# Highest number of a TCP port.
MAX_PORT = 65535
# Characters of a run's key.
MAX_KEY = 128

PACK_HINT = "Pack the files into one archive, and unpack it in the program."
_LONG_INPUT = "Pass long input on stdin or as a file."
_NO_NUL = "Linux does not allow NUL there: pass the text on stdin or in a file."


def check_arguments(arguments: tuple[str, ...]) -> None:
    """Check the arguments of a program.

    Raises:
        InputError: the arguments are too many or too long, or contain NUL.
    """
    check_count("arguments", len(arguments), MAX_ARGUMENTS, _LONG_INPUT)
    for number, argument in enumerate(arguments):
        if "\0" in argument:
            raise InputError(f"arguments[{number}] contains NUL", _NO_NUL)
    _check_size("arguments", arguments, MAX_ARGUMENT_BYTES, _LONG_INPUT)


def check_environment(environment: tuple[tuple[str, str], ...]) -> None:
    """Check the variables of a program; names are those that Linux allows.

    Raises:
        InputError: the variables are too many or too long, or a name or value is invalid.
    """
    for name, value in environment:
        if (
            not name
            or "=" in name
            or "\0" in name
            or _count_bytes("environment", [name]) > MAX_NAME
        ):
            raise InputError(
                f"environment has the invalid name {name[:80]!r}",
                f"A name has 1 to {MAX_NAME} bytes, without '=' and NUL.",
            )
        if "\0" in value:
            raise InputError(f"environment[{name[:80]!r}] contains NUL", _NO_NUL)
    check_count("environment", len(environment), MAX_VARIABLES, _LONG_INPUT)
    texts = [text for pair in environment for text in pair]
    _check_size("environment", texts, MAX_ENVIRONMENT_BYTES, _LONG_INPUT)


def check_outputs(paths: tuple[str, ...]) -> None:
    """Check the paths of output files.

    Raises:
        InputError: the paths are too many or too long, or lie outside the working directory.
    """
    hint = "Pack the files into one archive in the program."
    for path in paths:
        check_guest_path("outputs", path)
    if len(set(paths)) < len(paths):
        raise InputError("outputs names a file twice", "Name each file once.")
    check_count("outputs", len(paths), MAX_OUTPUTS, hint)
    _check_size("outputs", paths, MAX_OUTPUT_PATH_BYTES, hint)


def check_files(files: tuple[InputFile, ...], source_name: str) -> None:
    """Check the input files beside a source with the name ``source_name``.

    Raises:
        InputError: the files are too many or too large, or their paths exclude each other.
    """
    check_count("files", len(files), MAX_FILES, PACK_HINT)
    if (size := sum(len(file.data) for file in files)) > MAX_FILE_BYTES:
        raise InputError(
            f"files has {size} bytes in total, and at most {format_size(MAX_FILE_BYTES)}"
            " are allowed",
            "Compress the files, or divide them among several runs.",
        )
    names = {source_name: "the source"}
    for file in files:
        check_guest_path("files", file.path)
        if not 0 <= file.mode <= 0o777:
            raise InputError(
                f"files has {file.path!r:.200} with the mode {file.mode:o}, and modes must be "
                "0 to 777",
                "Use the permission bits only: stat.S_IMODE(mode) & 0o777.",
            )
        if file.path in names:
            raise InputError(
                f"files has {file.path!r:.200}, which is also the name of {names[file.path]}",
                "Give one of them another name: --file LOCAL:GUEST",
            )
        names[file.path] = "another file"
    # In this order, a path below a file follows that file.
    ordered = sorted(path.split("/") for path in names)
    for above, below in pairwise(ordered):
        if below[: len(above)] == above:
            raise InputError(
                f"files has {'/'.join(below)!r:.200}, which needs a directory where "
                f"{'/'.join(above)!r:.200} is a file",
                "Give one of them another name.",
            )


def check_guest_path(field: str, path: str) -> None:
    """Check that ``path``, a value of ``field``, lies in the working directory.

    Raises:
        InputError: the path lies outside, or is too long.
    """
    parts = path.split("/")
    if path.startswith("/") or any(p in {"", ".", ".."} or "\0" in p for p in parts):
        raise InputError(
            f"{field} has {path[:200]!r}, which is not a path inside the working directory",
            "Use a relative path without '.' and '..' parts.",
        )
    if len(path) > MAX_PATH or max(map(len, _encode_text(field, path).split(b"/"))) > MAX_NAME:
        raise InputError(
            f"{field} has the path {path[:40]!r}..., which is too long",
            f"A path has at most {MAX_PATH} characters, and each part of it {MAX_NAME} bytes.",
        )


def check_count(name: str, count: int, most: int, hint: str) -> None:
    """Check the number of items of a list.

    Raises:
        InputError: the items are more than ``most``.
    """
    if count > most:
        raise InputError(f"{name} has {count} items, and at most {most} are allowed", hint)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Check that ``value`` is one of ``choices``.

    Raises:
        InputError: the value is another one.
    """
    if value not in choices:
        raise InputError(f"{name} is {value[:60]!r}", f"Use one of: {', '.join(choices)}.")


def _check_size(name: str, texts: Iterable[str], most: int, hint: str) -> None:
    if (size := _count_bytes(name, texts)) > most:
        raise InputError(
            f"{name} has {size} bytes in total, and at most {format_size(most)} are allowed", hint
        )


def _count_bytes(name: str, texts: Iterable[str]) -> int:
    return sum(len(_encode_text(name, text)) for text in texts)


def _encode_text(name: str, text: str) -> bytes:
    return encode_text(name, text, "Leave out lone surrogates.")
