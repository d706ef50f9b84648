"""Sockets of other users: the kernel reports their ids to the server (SO_PEERCRED, unix(7))."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# setresuid(2), by machine. The C library's changes the ids of all threads, the call those of one.
_SETRESUID = {"x86_64": 117, "aarch64": 147}
_UNCHANGED = -1


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Have another effective user id in this thread; only root can."""
    _set_effective_user(user)
    try:
        yield
    finally:
        _set_effective_user(0)


def _set_effective_user(user: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SETRESUID[platform.machine()], _UNCHANGED, user, _UNCHANGED):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def connect_as(user: int, path: Path) -> socket.socket:
    """Return a socket that ``user`` has connected to ``path``."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.setblocking(False)
        with acting_as(user):
            client.connect(str(path))
    except BaseException:
        client.close()
        raise
    return client
