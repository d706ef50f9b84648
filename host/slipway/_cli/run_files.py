"""The files that ``slipway run --get`` fetches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._cli.run_inputs import pair
from slipway._cli.terminal import say
from slipway._model.errors import HostError, InputError
from slipway._util.text import plain

if TYPE_CHECKING:
    from slipway._model.result import OutputFile

_HINT = "Write --get GUEST:LOCAL."


def destinations(wanted: list[str]) -> dict[str, str]:
    """Where each file goes, by its path in the guest; checked before a program has run for it.

    Raises:
        InputError: one cannot be written.
    """
    pairs = [pair(text, "--get", "NAME or A:B") for text in wanted]
    locals_of = dict(pairs)
    if len(locals_of) < len(pairs):
        raise InputError("a file is asked for twice", "Name each wanted path once.")
    if len(set(locals_of.values())) < len(locals_of):
        raise InputError("two files are to be fetched into one", _HINT)
    for local in locals_of.values():
        _check(local)
    return locals_of


def save(files: tuple[OutputFile, ...], locals_of: dict[str, str]) -> None:
    """Write them where they are to go, and tell of those that are missing.

    Raises:
        HostError: one cannot be written.
    """
    for file in files:
        if file.data is None:
            say(f"cannot fetch {plain(file.path)} (--get): {plain(file.missing)}")
        else:
            _write(locals_of[file.path], file.mode, file.data)


def _check(local: str) -> None:
    path = Path(local)
    try:
        directory, there = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"cannot write {local}: {error.strerror}", _HINT) from None
    if directory:
        raise InputError(f"cannot write {local}: it is a directory", _HINT)
    if not os.access(path if there else path.parent, os.W_OK):
        raise InputError(
            f"cannot write {local}: it, or its directory, is not there to be written", _HINT
        )


def _write(local: str, mode: int, data: bytes) -> None:
    # As cp does: a new file has its mode as the umask leaves it, one that is there keeps its own.
    def open_new(path: str, flags: int) -> int:
        return os.open(path, flags, mode & 0o777 | 0o600)

    try:
        with open(local, "wb", opener=open_new) as file:
            file.write(data)
    except OSError as error:
        raise HostError(f"cannot write {local}: {error.strerror}") from None
