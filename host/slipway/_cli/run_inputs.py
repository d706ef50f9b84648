"""The files that ``slipway run --file`` puts beside the source."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._model.bounds import MAX_FILE_BYTES, MAX_FILES
from slipway._model.errors import InputError
from slipway._model.input_file import InputFile
from slipway._model.options import read_local_file

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACK = "Pack them into one archive, and let the program unpack it."


def input_files(wanted: list[str], source: str | None = None) -> tuple[InputFile, ...]:
    """Read the files, and all files below the directories, that ``wanted`` names.

    Below a directory, the ``source`` itself is left out: it goes by its own name, and would be
    compiled twice.

    Raises:
        InputError: one cannot be read, or they are too many or too large.
    """
    files: list[InputFile] = []
    room = MAX_FILE_BYTES
    for text in wanted:
        local, guest = pair(text, "--file", "LOCAL or LOCAL:GUEST")
        for path, name in _named(local, guest):
            if path != Path(local) and _is_same(path, source):
                continue
            if len(files) == MAX_FILES:
                raise InputError(f"--file names more than {MAX_FILES} files", _PACK)
            data = read_local_file(path, MAX_FILE_BYTES, "input")
            room -= len(data)
            if room < 0:
                raise InputError(f"the files have more than {MAX_FILE_BYTES} bytes together", _PACK)
            files.append(InputFile(name, data, _mode(path)))
    return tuple(files)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except OSError as error:  # it was removed meanwhile
        raise InputError(f"cannot read {path}: {error.strerror}", "Run it again.") from None


def pair(text: str, option: str, form: str) -> tuple[str, str]:
    """Split ``A:B``; ``A`` alone stands for both.

    Raises:
        InputError: one of them is empty.
    """
    first, colon, second = text.partition(":")
    if not first or (colon and not second):
        raise InputError(f"{option} {text!r} lacks a name", f"Write {option} {form}.")
    return first, second or first


def _named(local: str, guest: str) -> Iterator[tuple[Path, str]]:
    """Give what is to be read, and under which name it goes to the guest.

    Where no name is given, a file keeps the one that was written: --file ../x is an error.
    """
    path = Path(local)
    if not os.path.isdir(local):  # noqa: PTH112 - Path raises where a name is too long
        yield path, guest.removeprefix("./") if guest == local else guest
        return
    if guest == local and (path.is_absolute() or ".." in path.parts):
        raise InputError(
            f"--file {local} has no name inside the working directory",
            f"Name it: --file {local}:{path.resolve().name or 'NAME'}",
        )
    # "data/", "./data" and "." are written as shells complete them.
    prefix = os.path.normpath(guest)
    found = None
    for found in _files_below(path):
        name = found.relative_to(path).as_posix()
        yield found, name if prefix == "." else f"{prefix}/{name}"
    if found is None:
        raise InputError(f"--file {local} is a directory without files", "Leave it out.")


def _is_same(path: Path, source: str | None) -> bool:
    if source in {None, "-"}:
        return False
    try:
        return path.samefile(str(source))
    except (OSError, ValueError):  # a source that cannot be read is told of where it is
        return False


def _files_below(directory: Path) -> Iterator[Path]:
    """Give the files in a fixed order; a link is followed where that stays inside ``directory``.

    Raises:
        InputError: something else is there, or cannot be read.
    """
    root = directory.resolve()
    waiting = [directory]
    while waiting:
        path = waiting.pop()
        try:
            # The directory itself may be named by a link.
            mode = path.stat(follow_symlinks=path == directory).st_mode
            if stat.S_ISDIR(mode):
                waiting += sorted(path.iterdir(), reverse=True)
                continue
            target = Path(os.path.realpath(path))
            leads_out = not target.is_relative_to(root) or not target.is_file()
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {error.strerror}", "See its rights: ls -ld."
            ) from None
        if stat.S_ISLNK(mode):
            if leads_out:
                raise InputError(
                    f"{path} is a link to {target}, which is no file of {directory}",
                    "Remove it, or give what it points to with a --file of its own.",
                )
        elif not stat.S_ISREG(mode):
            raise InputError(f"{path} is neither a file nor a directory", "Remove it.")
        yield path
