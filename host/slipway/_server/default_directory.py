"""Directory of a server that listens at the default path."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from slipway._util.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODE = 0o700
_WRITABLE_BY_OTHERS = 0o022


@contextmanager
def create_default_directory(path: Path) -> Iterator[None]:
    """Create the directory at ``path`` if it is missing, and remove it at the end if it is empty.

    Clients trust a server there without being told to, so the directory must be this user's alone.

    Raises:
        HostError: the directory cannot be created, or is another user's or a link.
    """
    try:
        with suppress(FileExistsError):
            path.mkdir(_MODE)
        found = path.lstat()
    except OSError as error:
        raise HostError(
            f"cannot create {path}: {(error.strerror or str(error)).lower()}",
            "Name a socket: slipway serve --api-sock PATH",
        ) from None
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_ours or found.st_mode & _WRITABLE_BY_OTHERS:
        raise HostError(
            f"{path} is not a directory of this user alone",
            "Remove it, or name a socket: slipway serve --api-sock PATH",
        )
    try:
        yield
    finally:
        with suppress(OSError):  # not empty: another server begins
            path.rmdir()
