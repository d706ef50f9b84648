"""Files in the working directory of a job."""

from __future__ import annotations

import os

from slipway_protocol.errors import ProtocolError

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECTORY = os.O_DIRECTORY | _READ


def _open_directory(root: str, parts: list[str], owner: int | None) -> int:
    """Open the directory ``parts`` below ``root`` without following any link.

    With ``owner``, missing directories are made for that user.
    """
    fd = os.open(root, _DIRECTORY)
    try:
        for part in parts:
            if owner is not None:
                _make_directory(part, fd, owner)
            below = os.open(part, _DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
    except OSError:
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
    """Remove the file, link, FIFO or socket ``name`` of an earlier program, if any."""
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
    except OSError:
        os.close(fd)
        raise
    return fd


def _write_all(fd: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def make_fifo(root: str, path: str, owner: int) -> tuple[int, int]:
    """Make a FIFO for ``owner`` to read; return its non-blocking read end and write end.

    Raises:
        OSError: the FIFO cannot be made.
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
        except OSError:
            os.close(reader)
            raise
    finally:
        os.close(parent)


def replace_file(root: str, path: str, mode: int, data: bytes | bytearray, owner: int) -> None:
    """Store a complete file at ``path`` by one rename, which replaces an existing file.

    Raises:
        OSError: the file cannot be stored.
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
    """Remove the file at ``path``.

    Raises:
        OSError: the file is missing or cannot be removed.
    """
    *parents, name = path.split("/")
    parent = _open_directory(root, parents, None)
    try:
        os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)


def open_for_reading(root: str, path: str) -> int:
    """Open the entry at ``path`` without following a link and without waiting; return it.

    Raises:
        OSError: the entry is missing, a link, or cannot be opened.
    """
    *parents, name = path.split("/")
    parent = _open_directory(root, parents, None)
    try:
        # O_NONBLOCK and O_NOCTTY: a FIFO or device must not block the agent.
        return os.open(name, _READ | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=parent)
    finally:
        os.close(parent)


class IncomingTree:
    """Directories below ``root`` for a job's files, made for ``owner``; the last stays open.

    No program of a user runs while the files of a job come. Hence the open directory is still that
    of its path for the next file, mostly in the same. With ``replace`` a file replaces a file,
    link, FIFO or socket of an earlier program.
    """

    def __init__(self, root: str, owner: int, *, replace: bool) -> None:
        self.owner = owner
        self.replace = replace
        self._root = root
        self._parents: list[str] = []
        self._fd: int | None = None

    def open_directory(self, parents: list[str]) -> int:
        """Return the descriptor of a directory, which the tree closes; make missing ones.

        Raises:
            OSError: it cannot be opened.
        """
        if self._fd is None or parents != self._parents:
            self.close()
            self._fd = _open_directory(self._root, parents, self.owner)
            self._parents = parents
        return self._fd

    def close(self) -> None:
        """Close the last directory. May be called again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class IncomingFile:
    """File that the host sends; ``error`` is the reason if the file cannot be stored.

    A directory at the path, or a parent that is not a directory, is an error.
    """

    def __init__(self, tree: IncomingTree, path: str, mode: int, size: int) -> None:
        self.left = size
        self.error = ""
        self._path = path
        self._fd: int | None = None
        *parents, name = path.split("/")
        try:
            parent = tree.open_directory(parents)
            if tree.replace:
                _remove_entry(name, parent)
            self._fd = _create_file(name, parent, mode, tree.owner)
        except OSError as error:
            self._record_failure(error)

    def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            ProtocolError: the file is longer than announced.
        """
        if len(data) > self.left:
            raise ProtocolError(f"{self._path} is longer than announced")
        self.left -= len(data)
        try:
            if self._fd is not None:
                _write_all(self._fd, data)
        except OSError as error:
            self._record_failure(error)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _record_failure(self, error: OSError) -> None:
        self.error = f"{self._path} cannot be stored: {error.strerror}"
        self.close()
