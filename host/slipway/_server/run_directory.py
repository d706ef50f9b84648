"""The directory with the output sockets of one server, and the socket that it listens on.

A server holds locks on both while it lives. So the next one, after a crash too, knows that what is
there is nobody's, and removes it.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from slipway._model.errors import HostError, InputError
from slipway._server.kept.output_socket import NAME
from slipway._server.socket_access import Access
from slipway._util.unix_sockets import MAX_SOCKET_PATH
from slipway_initramfs.disk.locks import try_lock_exclusive

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_IDENTIFIER = re.compile(r"[0-9a-f]{32}")
# Seconds for another program to answer on its socket; the kernel does it for one that is stopped.
_ANSWER = 1.0
_TRIES = 100


class RunDirectory:
    """``path``, by default ``API_SOCKET.d``, for the time of a ``with``.

    Raises:
        InputError: a path is too long for a socket.
        HostError: at the beginning of the ``with``: another server uses the directory, or it cannot
            be made, or is open to others.
    """

    def __init__(
        self, api_socket: Path, path: Path | None = None, access: Access | None = None
    ) -> None:
        self.api_socket = _absolute(api_socket)
        self.path = _absolute(path or self.api_socket.with_name(f"{self.api_socket.name}.d"))
        self.access = access or Access()
        _check_length(self.api_socket, "the path of the API socket", "Choose a shorter one.")
        _check_length(
            self.path / ("0" * 32) / NAME,
            "the path of an output socket",
            "Choose a shorter path, or another directory for the output sockets: --run-dir.",
        )
        self._directory = -1
        self._lock = -1
        self._bound: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        busy = f"another server uses the directory {self.path}"
        self._directory = _locked(self.path, self._open, busy)
        try:
            self._sweep()
        except OSError as error:
            self._release()
            raise HostError(f"{self.path} cannot be swept: {error.strerror}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def listen(self, backlog: int) -> socket.socket:
        """Bind the API socket, with its mode and owner before anybody can connect.

        Raises:
            InputError: something is at the path that is no socket.
            HostError: a server listens there, or the path cannot be used.
        """
        path = self.api_socket
        busy = f"another server listens on {path}"
        lock = path.with_name(f"{path.name}.lock")
        self._lock = _locked(lock, lambda: _open_lock(lock), busy)
        _remove_stale(path, busy)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            found = path.lstat()
            self._bound = found.st_dev, found.st_ino
            self.access.apply(path)
            listener.listen(backlog)
        except OSError as error:
            listener.close()
            raise _unusable(path, error) from None
        listener.setblocking(False)
        return listener

    def _open(self) -> int:
        """Open the directory, made if need be; it has to be ours alone to write to."""
        try:
            with suppress(FileExistsError):
                self.path.mkdir(self.access.directory_mode)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(self.path, flags)
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise HostError(
                    f"{self.path} is no directory", "Remove it, or choose another: --run-dir."
                ) from None
            raise _unusable(self.path, error) from None
        try:
            found = os.fstat(directory)
            if found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
                raise HostError(
                    f"others than this server's user can write to {self.path}",
                    "Choose a directory of its own: --run-dir.",
                )
            # One that a crash has left may be less open than this server's sockets.
            wanted = stat.S_IMODE(found.st_mode) | self.access.directory_mode
            if found.st_uid == os.geteuid() and wanted != stat.S_IMODE(found.st_mode):
                os.fchmod(directory, wanted)
        except BaseException:
            os.close(directory)
            raise
        return directory

    def _sweep(self) -> None:
        """Remove what a server has left: directories of ours, of its names, with a socket at most.

        What else there may be is left alone, and so are directories that hold it.
        """
        for name in os.listdir(self._directory):  # noqa: PTH208 - pathlib has no descriptors
            if not _IDENTIFIER.fullmatch(name):
                continue
            found = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(name, flags, dir_fd=self._directory)
            try:
                with suppress(FileNotFoundError):
                    inside = os.stat(NAME, dir_fd=directory, follow_symlinks=False)
                    if stat.S_ISSOCK(inside.st_mode):
                        os.unlink(NAME, dir_fd=directory)
            finally:
                os.close(directory)
            with suppress(OSError):  # not empty
                os.rmdir(name, dir_fd=self._directory)

    def _release(self) -> None:
        """Remove what is ours and let go. Locks last, so that nobody comes in between."""
        if self._bound is not None:
            with suppress(OSError):
                found = self.api_socket.lstat()
                if (found.st_dev, found.st_ino) == self._bound:
                    self.api_socket.unlink()
        if self._lock >= 0:
            with suppress(OSError):
                self.api_socket.with_name(f"{self.api_socket.name}.lock").unlink()
            os.close(self._lock)
        with suppress(OSError):
            self._sweep()
        with suppress(OSError):  # something else is in it, or its parent is not ours
            self.path.rmdir()
        os.close(self._directory)
        self._directory = self._lock = -1
        self._bound = None


def _absolute(path: Path) -> Path:
    if "\0" in str(path):
        raise InputError(f"{str(path)!r:.80} is no path")
    return Path(os.path.normpath(path.absolute()))


def _check_length(path: Path, what: str, hint: str) -> None:
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise InputError(
            f"{what} has {size} bytes, at most {MAX_SOCKET_PATH} are allowed: {path}", hint
        )


def _locked(path: Path, opened: Callable[[], int], busy: str) -> int:
    """A descriptor of what is at ``path`` now, locked.

    Whoever ends removes what it has locked. We may have opened it before and locked it after that:
    then we have a lock on something that nobody finds.

    Raises:
        HostError: somebody else has the lock.
    """
    for _ in range(_TRIES):
        descriptor = opened()
        if not try_lock_exclusive(descriptor):
            os.close(descriptor)
            raise HostError(busy, "Stop it first, or choose another path.")
        ours = os.fstat(descriptor)
        with suppress(OSError):
            there = path.lstat()
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return descriptor
        os.close(descriptor)
    raise HostError(f"{path} is removed again and again by somebody else")


def _open_lock(path: Path) -> int:
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise _unusable(path, error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is no file that can be locked", "Remove it, or choose another.")
    return descriptor


def _remove_stale(path: Path, busy: str) -> None:
    """Remove a socket on which nobody listens any more; refuse whatever else is at ``path``."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(path, error) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise InputError(f"{path} exists and is no socket", "Remove it, or choose another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_ANSWER)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _unusable(path, error) from None
            return
        except FileNotFoundError:
            return
        except PermissionError as error:
            raise _unusable(path, error) from None
        except OSError:
            pass  # a full queue, or another kind of socket: somebody listens
    raise HostError(busy, "Stop it first, or choose another path.")


def _unusable(path: Path, error: OSError) -> HostError:
    hints = {
        errno.ENOENT: f"Make its directory: mkdir -p {path.parent}",
        errno.EACCES: "Choose a path in a directory that this user can write to.",
        errno.EPERM: "Only root can give a socket to somebody else.",
    }
    return HostError(
        f"{path} cannot be used: {(error.strerror or str(error)).lower()}",
        hints.get(error.errno or 0, "Choose another path."),
    )
