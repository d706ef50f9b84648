"""Directory of the output sockets of one server, and the API socket.

A server holds locks on both while it lives. The next server takes the locks, also after a crash,
and then removes all sockets that are left.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from slipway._server.kept.output_socket import NAME
from slipway._server.socket_access import SocketAccess
from slipway._util.errors import HostError, InputError
from slipway._util.identifiers import IDENTIFIER_LENGTH, is_identifier
from slipway._util.socket_limits import MAX_SOCKET_PATH
from slipway_initramfs.disk.locks import try_lock_exclusive

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Seconds for a connection to the socket of another program; the kernel also accepts for a program
# that is stopped.
_CONNECT_SECONDS = 1.0
_LOCK_TRIES = 100


class RunDirectory:
    """Context manager that creates and locks ``path`` (default: ``API_SOCKET.d``).

    Raises:
        InputError: a path is too long for a socket.
        HostError: on entering the context: another server uses the directory, it cannot be
            created, or other users can write to it.
    """

    def __init__(
        self, api_socket: Path, path: Path | None = None, access: SocketAccess | None = None
    ) -> None:
        self.api_socket = _make_absolute(api_socket)
        self.path = _make_absolute(path or self.api_socket.with_name(f"{self.api_socket.name}.d"))
        self.access = access or SocketAccess()
        _check_length(self.api_socket, "the path of the API socket", "Choose a shorter path.")
        _check_length(
            self.path / ("0" * IDENTIFIER_LENGTH) / NAME,
            "the path of an output socket",
            "Choose a shorter path, or another directory for the output sockets: --run-dir.",
        )
        self._directory = -1
        self._lock = -1
        self._bound: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        busy = f"another server uses the directory {self.path}"
        self._directory = _lock(self.path, self._open, busy)
        try:
            self._sweep()
        except OSError as error:
            self._release()
            raise HostError(f"cannot clean up {self.path}: {error.strerror}") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def listen(self, backlog: int) -> socket.socket:
        """Return the listening API socket; its mode and owner are set before clients can connect.

        Raises:
            InputError: a file of another kind exists at the path.
            HostError: a server listens at the path, or the path cannot be used.
        """
        path = self.api_socket
        busy = f"another server listens on {path}"
        lock = path.with_name(f"{path.name}.lock")
        self._lock = _lock(lock, lambda: _open_lock(lock), busy)
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
            raise _describe_os_error(path, error) from None
        listener.setblocking(False)
        return listener

    def _open(self) -> int:
        """Return a descriptor of the directory, created if missing and writable only for us."""
        try:
            with suppress(FileExistsError):
                self.path.mkdir(self.access.directory_mode)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(self.path, flags)
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise HostError(
                    f"{self.path} is not a directory", "Remove it, or choose another: --run-dir."
                ) from None
            raise _describe_os_error(self.path, error) from None
        with ExitStack() as stack:
            stack.callback(os.close, directory)
            found = os.fstat(directory)
            if found.st_uid not in {0, os.geteuid()} or found.st_mode & 0o022:
                raise HostError(
                    f"users other than this server's can write to {self.path}",
                    "Choose a directory for this server alone: --run-dir.",
                )
            # A directory that a crash has left may be less open than this server's sockets need.
            wanted = stat.S_IMODE(found.st_mode) | self.access.directory_mode
            if found.st_uid == os.geteuid() and wanted != stat.S_IMODE(found.st_mode):
                os.fchmod(directory, wanted)
            stack.pop_all()
        return directory

    def _sweep(self) -> None:
        """Remove directories that a server has left: ours, with an id as name, and only a socket.

        Other files are left alone, and so are directories that have them.
        """
        for name in os.listdir(self._directory):  # noqa: PTH208 - pathlib has no descriptors
            if not is_identifier(name):
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
        """Remove our files, and the locks last, so that no other server comes in between."""
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
        with suppress(OSError):  # other files are in it, or its parent is not ours
            self.path.rmdir()
        os.close(self._directory)
        self._directory = self._lock = -1
        self._bound = None


def _make_absolute(path: Path) -> Path:
    if "\0" in str(path):
        raise InputError(f"invalid path {str(path)!r:.80}")
    return Path(os.path.normpath(path.absolute()))


def _check_length(path: Path, name: str, hint: str) -> None:
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise InputError(f"{name} has {size} bytes, at most {MAX_SOCKET_PATH} fit: {path}", hint)


def _lock(path: Path, opener: Callable[[], int], busy: str) -> int:
    """Return a locked descriptor of the file or directory at ``path``.

    A server removes its files at its end, perhaps after we have opened and before we have locked
    them. Our lock is then on a file that other servers do not find, so that we try again.

    Raises:
        HostError: another server has the lock; ``busy`` says so.
    """
    for _ in range(_LOCK_TRIES):
        descriptor = opener()
        if not try_lock_exclusive(descriptor):
            os.close(descriptor)
            raise HostError(busy, "Stop it first, or choose another path.")
        ours = os.fstat(descriptor)
        with suppress(OSError):
            there = path.lstat()
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return descriptor
        os.close(descriptor)
    raise HostError(f"another program removes {path} again and again")


def _open_lock(path: Path) -> int:
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise _describe_os_error(path, error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is not a regular file", "Remove it, or choose another path.")
    return descriptor


def _remove_stale(path: Path, busy: str) -> None:
    """Remove a socket without a listener.

    Raises:
        InputError: a file of another kind exists at ``path``.
        HostError: a program listens there (``busy`` says so), or the path cannot be used.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _describe_os_error(path, error) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise InputError(f"{path} exists and is not a socket", "Remove it, or choose another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _describe_os_error(path, error) from None
            return
        except FileNotFoundError:
            return
        except PermissionError as error:
            raise _describe_os_error(path, error) from None
        except OSError:
            pass  # a full backlog, or another kind of socket: a program listens
    raise HostError(busy, "Stop it first, or choose another path.")


def _describe_os_error(path: Path, error: OSError) -> HostError:
    hints = {
        errno.ENOENT: f"Create its directory: mkdir -p {path.parent}",
        errno.EACCES: "Choose a path in a directory that this user can write to.",
        errno.EPERM: "Only root can give a socket to another user.",
    }
    return HostError(
        f"cannot use {path}: {(error.strerror or str(error)).lower()}",
        hints.get(error.errno or 0, "Choose another path."),
    )
