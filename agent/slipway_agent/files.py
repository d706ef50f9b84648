"""Files into a job's working directory and out of it."""

from __future__ import annotations

import os
import stat

from slipway_protocol.errors import ProtocolError
from slipway_protocol.schema import MAX_DATA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway_protocol import messages as m

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECTORY = os.O_DIRECTORY | _READ


class FileError(Exception):
    """A file cannot be sent; the text says why."""


def _open_directory(root: str, parts: list[str], owner: int | None) -> int:
    """Open the directory ``parts`` below ``root`` without following any link.

    With ``owner``, directories that are missing are made for that user.
    """
    fd = os.open(root, _DIRECTORY)
    try:
        for part in parts:
            if owner is not None:
                _make_directory(part, fd, owner)
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_directory(name: str, parent: int, owner: int) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        return
    if owner != os.geteuid():
        os.chown(name, owner, owner, dir_fd=parent, follow_symlinks=False)


def _remove_entry(name: str, parent: int) -> None:
    """Remove what an earlier program has left in a file's place; only a directory stays."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def _create_file(name: str, parent: int, mode: int, owner: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        os.fchmod(fd, mode)
        if owner != os.geteuid():
            os.fchown(fd, owner, owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_all(fd: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def make_fifo(root: str, path: str, owner: int) -> tuple[int, int]:
    """Make a FIFO for ``owner`` to read; returns both of its ends, neither of which waits.

    Raises:
        OSError: it cannot be made.
    """
    *parents, name = path.split("/")
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    parent = _open_directory(root, parents, owner)
    try:
        os.mkfifo(name, 0o600, dir_fd=parent)
        if owner != os.geteuid():
            os.chown(name, owner, owner, dir_fd=parent, follow_symlinks=False)
        reader = os.open(name, os.O_RDONLY | flags, dir_fd=parent)
        try:
            return reader, os.open(name, os.O_WRONLY | flags, dir_fd=parent)
        except BaseException:
            os.close(reader)
            raise
    finally:
        os.close(parent)


def replace_file(root: str, path: str, mode: int, data: bytes | bytearray, owner: int) -> None:
    """Put a whole file at ``path`` at once, in the place of what may be there.

    Raises:
        OSError: it cannot be stored.
    """
    *parents, name = path.split("/")
    temporary = f".{os.urandom(16).hex()}"
    parent = _open_directory(root, parents, owner)
    try:
        fd = _create_file(temporary, parent, mode, owner)
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(parent)


def remove_file(root: str, path: str) -> None:
    """Remove what is at ``path``.

    Raises:
        OSError: it cannot be removed, or was not there.
    """
    *parents, name = path.split("/")
    parent = _open_directory(root, parents, None)
    try:
        os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)


class IncomingFile:
    """A file that the host sends; where it cannot be stored, ``error`` says why.

    With ``replace`` it takes the place of what an earlier program has left there, be it a file, a
    link, a FIFO or a socket, but neither of a directory nor of what is no directory on the way.
    """

    def __init__(self, root: str, file: m.File, owner: int, *, replace: bool) -> None:
        self.left = file.size
        self.error = ""
        self._path = file.path
        self._fd: int | None = None
        *parents, name = file.path.split("/")
        try:
            parent = _open_directory(root, parents, owner)
            try:
                if replace:
                    _remove_entry(name, parent)
                self._fd = _create_file(name, parent, file.mode, owner)
            finally:
                os.close(parent)
        except OSError as error:
            self._record_failure(error)

    def write(self, data: bytes) -> None:
        """Append what came.

        Raises:
            ProtocolError: it is more than was announced.
        """
        if len(data) > self.left:
            raise ProtocolError(f"{self._path} is longer than was announced")
        self.left -= len(data)
        try:
            if self._fd is not None:
                _write_all(self._fd, data)
        except OSError as error:
            self._record_failure(error)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _record_failure(self, error: OSError) -> None:
        self.error = f"{self._path} cannot be stored: {error.strerror}"
        self.close()


class OutgoingFile:
    """A file that the host asked for."""

    def __init__(self, root: str, path: str, max_bytes: int) -> None:
        """Open the file, which a hostile program has left there.

        Raises:
            FileError: it is not there, not a plain file, or pretends to be larger than
                ``max_bytes``.
        """
        *parents, name = path.split("/")
        try:
            parent = _open_directory(root, parents, None)
            try:
                # Neither a FIFO nor a device may make the agent wait.
                self._fd = os.open(name, _READ | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=parent)
            finally:
                os.close(parent)
        except OSError as error:
            raise FileError(_explain_failure(root, path, error)) from None
        status = os.fstat(self._fd)
        self.mode = stat.S_IMODE(status.st_mode) & 0o777
        self.size = self.left = status.st_size
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise FileError("it is not a plain file")
        if self.size > max_bytes:
            os.close(self._fd)
            raise FileError(f"it pretends to have {self.size} bytes, more than the disk")

    def read(self) -> bytes:
        """The next piece; empty at the end.

        Raises:
            FileError: the file has become shorter.
        """
        data = os.read(self._fd, min(MAX_DATA, self.left))
        if self.left and not data:
            raise FileError("it has become shorter while it was sent")
        self.left -= len(data)
        return data

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


def _explain_failure(root: str, path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    here = root
    for part in path.split("/"):
        here = f"{here}/{part}"
        if os.path.islink(here):
            return "it is, or lies behind, a symbolic link"
    return error.strerror or str(error)
