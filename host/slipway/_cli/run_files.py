"""Output files of ``slipway run --get``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._cli.run_inputs import split_pair
from slipway._cli.terminal import write_line
from slipway._util.errors import HostError, InputError
from slipway._util.text import to_plain_line

if TYPE_CHECKING:
    from slipway._model.result import OutputFile

_HINT = "Write --get GUEST:LOCAL."


def plan_destinations(wanted: list[str]) -> dict[str, str]:
    """Return the local path of each file by its path in the guest, checked before the run.

    Raises:
        InputError: a local path cannot be written.
    """
    pairs = [split_pair(text, "--get", "NAME or A:B") for text in wanted]
    locals_of = dict(pairs)
    if len(locals_of) < len(pairs):
        raise InputError("--get names a file twice", "Name each file once.")
    if len(set(locals_of.values())) < len(locals_of):
        raise InputError("--get writes two files to one local path", _HINT)
    for local in locals_of.values():
        _check_destination(local)
    return locals_of


def save_files(files: tuple[OutputFile, ...], locals_of: dict[str, str]) -> None:
    """Write the files to their local paths, and report missing files.

    Raises:
        HostError: a file cannot be written.
    """
    for file in files:
        if file.data is None:
            write_line(
                f"cannot fetch {to_plain_line(file.path)} (--get): {to_plain_line(file.missing)}"
            )
        else:
            _write_file(locals_of[file.path], file.mode, file.data)


def _check_destination(local: str) -> None:
    path = Path(local)
    try:
        directory, there = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"cannot write {local}: {error.strerror}", _HINT) from None
    if directory:
        raise InputError(f"cannot write {local}: it is a directory", _HINT)
    if not os.access(path if there else path.parent, os.W_OK):
        raise InputError(f"cannot write {local}: the file or its directory is not writable", _HINT)


def _write_file(local: str, mode: int, data: bytes) -> None:
    # As cp does: a new file gets its mode less the umask, an existing file keeps its mode.
    def open_new(path: str, flags: int) -> int:
        return os.open(path, flags, mode & 0o777 | 0o600)

    try:
        with open(local, "wb", opener=open_new) as file:
            file.write(data)
    except OSError as error:
        raise HostError(f"cannot write {local}: {error.strerror}") from None
