"""How many and how large the texts and files of a request may be, and what they may be called."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from slipway._model.errors import InputError
from slipway._model.values import encode_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway._model.input_file import InputFile

MAX_FILES = 256
MAX_FILE_BYTES = 256 * 1024 * 1024
# Together with both phases' environments and the wanted paths these fit into one message of the
# protocol, which has at most 64 KiB.
MAX_ARGUMENTS = 512
MAX_ARGUMENT_BYTES = 16 * 1024
MAX_VARIABLES = 128
MAX_ENVIRONMENT_BYTES = 12 * 1024
MAX_OUTPUTS = 64
MAX_OUTPUT_PATH_BYTES = 4 * 1024
# Of a part of a path (NAME_MAX), and of a variable's name.
MAX_NAME = 255
MAX_PATH = 4096
# Characters of what says whose run it is.
MAX_KEY = 128

_PACK = "Pack them into one archive, which the program unpacks."
_LONG_INPUT = "Pass long input on stdin or as a file."
_NO_NUL = "No program can be given a NUL there: pass it on stdin or in a file."


def check_arguments(arguments: tuple[str, ...]) -> None:
    """Check the arguments of a program.

    Raises:
        InputError: they are too many or too long, or one cannot be an argument.
    """
    _check_count("arguments", len(arguments), MAX_ARGUMENTS, _LONG_INPUT)
    for number, argument in enumerate(arguments):
        if "\0" in argument:
            raise InputError(f"arguments[{number}] has a NUL", _NO_NUL)
    _check_size("arguments", arguments, MAX_ARGUMENT_BYTES, _LONG_INPUT)


def check_environment(environment: tuple[tuple[str, str], ...]) -> None:
    """Check the variables of a program, which may be called as Linux lets them.

    Raises:
        InputError: they are too many or too long, or one cannot be a variable.
    """
    for name, value in environment:
        if (
            not name
            or "=" in name
            or "\0" in name
            or _count_bytes("environment", [name]) > MAX_NAME
        ):
            raise InputError(
                f"environment has the name {name[:80]!r}, which no variable can have",
                f"A name has 1 to {MAX_NAME} bytes of anything but '=' and NUL.",
            )
        if "\0" in value:
            raise InputError(f"environment[{name[:80]!r}] has a NUL", _NO_NUL)
    _check_count("environment", len(environment), MAX_VARIABLES, _LONG_INPUT)
    texts = [text for pair in environment for text in pair]
    _check_size("environment", texts, MAX_ENVIRONMENT_BYTES, _LONG_INPUT)


def check_outputs(paths: tuple[str, ...]) -> None:
    """Check the paths of files that are wanted back.

    Raises:
        InputError: they are too many or too long, or one is no path in the working directory.
    """
    hint = "Let the program pack them into one archive."
    for path in paths:
        check_guest_path("outputs", path)
    if len(set(paths)) < len(paths):
        raise InputError("outputs has a file twice", "Name each wanted path once.")
    _check_count("outputs", len(paths), MAX_OUTPUTS, hint)
    _check_size("outputs", paths, MAX_OUTPUT_PATH_BYTES, hint)


def check_files(files: tuple[InputFile, ...], source_name: str) -> None:
    """Check the files beside a source that is called ``source_name``.

    Raises:
        InputError: they are too many or too large, or their paths do not go together.
    """
    _check_count("files", len(files), MAX_FILES, _PACK)
    if (size := sum(len(file.data) for file in files)) > MAX_FILE_BYTES:
        raise InputError(
            f"files has {size} bytes together, and at most {MAX_FILE_BYTES} are allowed",
            "Compress them, or let several runs have a share each.",
        )
    taken = {source_name: "the source"}
    for file in files:
        check_guest_path("files", file.path)
        if not 0 <= file.mode <= 0o777:
            raise InputError(
                f"files has {file.path!r:.200} with the mode {file.mode:o}, which must be from "
                "0 to 777",
                "Give the permission bits only: stat.S_IMODE(mode) & 0o777.",
            )
        if file.path in taken:
            raise InputError(
                f"files has {file.path!r:.200}, which is the name of {taken[file.path]} already",
                "Give one of them another name: --file LOCAL:GUEST",
            )
        taken[file.path] = "another file"
    # What lies below a file follows it.
    ordered = sorted(path.split("/") for path in taken)
    for above, below in pairwise(ordered):
        if below[: len(above)] == above:
            raise InputError(
                f"files has {'/'.join(below)!r:.200}, which needs a directory where "
                f"{'/'.join(above)!r:.200} is a file",
                "Give one of them another name.",
            )


def check_guest_path(field: str, path: str) -> None:
    """Check that ``path``, which a ``field`` of the request has, lies in the working directory.

    Raises:
        InputError: it does not.
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


def _check_count(name: str, count: int, most: int, hint: str) -> None:
    if count > most:
        raise InputError(f"{name} has {count} items, and at most {most} are allowed", hint)


def _check_size(name: str, texts: Iterable[str], most: int, hint: str) -> None:
    if (size := _count_bytes(name, texts)) > most:
        raise InputError(f"{name} has {size} bytes together, and at most {most} are allowed", hint)


def _count_bytes(name: str, texts: Iterable[str]) -> int:
    return sum(len(_encode_text(name, text)) for text in texts)


def _encode_text(name: str, text: str) -> bytes:
    return encode_text(name, text, "Leave out lone surrogates.")
