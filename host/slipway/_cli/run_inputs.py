"""Input files of ``slipway run --file``."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._model.bounds import MAX_FILE_BYTES, MAX_FILES, PACK_HINT
from slipway._model.input_file import InputFile
from slipway._model.options import read_local_file
from slipway._util.errors import InputError
from slipway._util.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_input_files(wanted: list[str], source: str | None = None) -> tuple[InputFile, ...]:
    """Return the named files, and all files below the named directories.

    Below a directory the ``source`` is left out, because it would be compiled twice.

    Raises:
        InputError: a file cannot be read, or the files are too many or too large.
    """
    files: list[InputFile] = []
    room = MAX_FILE_BYTES
    for text in wanted:
        local, guest = split_pair(text, "--file", "LOCAL or LOCAL:GUEST")
        for path, name in _expand_argument(local, guest):
            if path != Path(local) and _is_source(path, source):
                continue
            if len(files) == MAX_FILES:
                raise InputError(f"--file names more than {MAX_FILES} files", PACK_HINT)
            data = read_local_file(path, MAX_FILE_BYTES, "input")
            room -= len(data)
            if room < 0:
                raise InputError(
                    f"--file: more than {format_size(MAX_FILE_BYTES)} in total", PACK_HINT
                )
            files.append(InputFile(name, data, _read_mode(path)))
    return tuple(files)


def _read_mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except OSError as error:  # removed meanwhile
        raise InputError(f"cannot read {path}: {error.strerror}", "Run it again.") from None


def split_pair(text: str, option: str, form: str) -> tuple[str, str]:
    """Split ``A:B``; ``A`` alone stands for both parts.

    Raises:
        InputError: a part is empty.
    """
    first, colon, second = text.partition(":")
    if not first or (colon and not second):
        raise InputError(f"missing name in {option} {text!r:.80}", f"Write {option} {form}.")
    return first, second or first


def _expand_argument(local: str, guest: str) -> Iterator[tuple[Path, str]]:
    """Yield the path of each file and its name in the guest.

    Without a name for the guest the path is the name, which makes --file ../x an error.
    """
    path = Path(local)
    if not os.path.isdir(local):  # noqa: PTH112 - Path raises where a name is too long
        yield path, guest.removeprefix("./") if guest == local else guest
        return
    if guest == local and (path.is_absolute() or ".." in path.parts):
        raise InputError(
            f"--file {local} lies outside the working directory",
            f"Give it a name there: --file {local}:{path.resolve().name or 'NAME'}",
        )
    # Shells complete names to "data/", "./data" and ".".
    prefix = os.path.normpath(guest)
    found = None
    for found in _walk_files(path):
        name = found.relative_to(path).as_posix()
        yield found, name if prefix == "." else f"{prefix}/{name}"
    if found is None:
        raise InputError(f"--file {local} is an empty directory", "Leave it out.")


def _is_source(path: Path, source: str | None) -> bool:
    if source in {None, "-"}:
        return False
    try:
        return path.samefile(str(source))
    except (OSError, ValueError):  # read_source reports a source that cannot be read
        return False


def _walk_files(directory: Path) -> Iterator[Path]:
    """Yield the files in a fixed order; links are followed inside ``directory`` only.

    Raises:
        InputError: an entry cannot be read, or is neither file nor directory.
    """
    root = directory.resolve()
    waiting = [directory]
    while waiting:
        path = waiting.pop()
        try:
            # The directory itself may be a link.
            mode = path.stat(follow_symlinks=path == directory).st_mode
            if stat.S_ISDIR(mode):
                waiting += sorted(path.iterdir(), reverse=True)
                continue
            target = Path(os.path.realpath(path))
            leads_out = not target.is_relative_to(root) or not target.is_file()
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {error.strerror}", f"See its permissions: ls -ld {path}"
            ) from None
        if stat.S_ISLNK(mode):
            if leads_out:
                raise InputError(
                    f"{path} is a link to {target}, outside of {directory} or not a file",
                    "Remove the link, or add its target with another --file.",
                )
        elif not stat.S_ISREG(mode):
            raise InputError(f"{path} is neither a file nor a directory", "Remove it.")
        yield path
