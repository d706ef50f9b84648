"""Trusted tree: a directory whose files only its owner can have put there.

Everything is opened beneath the descriptor of a checked directory, and without following a link
(openat(2), O_NOFOLLOW). No other user can rename or replace what lies in a checked directory. A
FIFO in place of a file does not block (O_NONBLOCK), and is refused like any other kind.

Every run imports this module: its own imports are fast.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway_initramfs.errors import UntrustedFile

if TYPE_CHECKING:
    from pathlib import Path

FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY = os.O_DIRECTORY | os.O_CLOEXEC
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
}
# Errors of open(2) for a link, a file in place of a directory, a socket, and a directory.
_OTHER_KINDS = {errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR}


class TrustedTree:
    """Files below ``root``, of the user of this process or of root, and writable by nobody else.

    ``root`` itself may be a link: its path is the caller's choice. The directories above that of a
    file are checked once, that of a file each time that a file in it is opened.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._checked: set[Path] = set()

    def open_file(self, path: Path, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        """Open a plain file; return its descriptor, which belongs to the caller.

        Raises:
            UntrustedFile: the file, or a directory above, is a link, of another kind, of another
                user, or writable by others.
            OSError: the file cannot be opened.
        """
        directory = self.open_directory(path.parent)
        try:
            return _open_file(path, flags, mode, directory)
        finally:
            os.close(directory)

    def open_directory(self, path: Path, flags: int = os.O_PATH) -> int:
        """Open a directory; return its descriptor, which belongs to the caller.

        Raises:
            UntrustedFile: as for :meth:`open_file`.
            OSError: the directory cannot be opened.
        """
        self._check_above(path)
        follow = 0 if path == self.root else os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags | _DIRECTORY | follow)
        except OSError as error:
            raise _explain(error, path, is_directory=True) from error
        try:
            _check(os.fstat(descriptor), path, is_directory=True)
        except UntrustedFile:
            os.close(descriptor)
            raise
        return descriptor

    def examine_file(self, path: Path) -> os.stat_result:
        """Return the status of a plain file without opening it.

        Raises:
            UntrustedFile: as for :meth:`open_file`.
            OSError: the file is missing, or a directory cannot be searched.
        """
        self._check_above(path)
        try:
            found = os.lstat(path)
        except NotADirectoryError as error:
            raise _explain(error, path.parent, is_directory=True) from error
        _check(found, path)
        return found

    def list_directory(self, path: Path, *, files: bool = False) -> list[str]:
        """Return the names in a directory, of plain files only with ``files``; empty if missing.

        Raises:
            UntrustedFile: as for :meth:`open_file`; what lies in the directory is not checked.
            OSError: the directory cannot be read.
        """
        try:
            directory = self.open_directory(path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            with os.scandir(directory) as entries:
                return [
                    entry.name
                    for entry in entries
                    if not files or entry.is_file(follow_symlinks=False)
                ]
        finally:
            os.close(directory)

    def make_directory(self, path: Path) -> None:
        """Create ``root`` and a directory below with their parents, and check all of them.

        Raises:
            UntrustedFile: as for :meth:`open_file`.
            OSError: a directory cannot be created.
        """
        self.root.mkdir(0o755, parents=True, exist_ok=True)
        for part in [*self._list_above(path)[1:], path]:
            if part != self.root:
                # Not exist_ok, which takes a link for a directory.
                with suppress(FileExistsError):
                    part.mkdir(0o755)
        os.close(self.open_directory(path))

    def remove_file(self, path: Path) -> None:
        """Remove a name that is no directory, if it is there.

        Raises:
            UntrustedFile: a directory above is refused, as for :meth:`open_file`.
            OSError: the name cannot be removed.
        """
        try:
            directory = self.open_directory(path.parent)
        except FileNotFoundError:
            return
        try:
            os.unlink(path.name, dir_fd=directory)
        except FileNotFoundError:
            pass
        finally:
            os.close(directory)

    def _check_above(self, path: Path) -> None:
        """Check the directories from ``root`` to that of ``path``, each once."""
        for directory in self._list_above(path):
            if directory in self._checked:
                continue
            try:
                found = directory.stat(follow_symlinks=directory == self.root)
            except NotADirectoryError as error:
                raise _explain(error, directory.parent, is_directory=True) from error
            _check(found, directory, is_directory=True)
            self._checked.add(directory)

    def _list_above(self, path: Path) -> list[Path]:
        """Return ``root`` and the directories between it and ``path``, in this order."""
        if path == self.root:
            return []
        above = []
        for directory in path.parents:
            above.append(directory)
            if directory == self.root:
                return above[::-1]
        raise ValueError(f"{path} is not below {self.root}")


def find_distrust(found: os.stat_result, *, is_directory: bool = False) -> str:
    """Return why a file, or a directory, is not trusted, as a predicate; empty if it is."""
    kind = stat.S_IFMT(found.st_mode)
    if kind != (stat.S_IFDIR if is_directory else stat.S_IFREG):
        wanted = "a directory" if is_directory else "a plain file"
        return f"is {_KINDS.get(kind, 'of an unknown kind')} instead of {wanted}"
    if found.st_uid not in {0, os.geteuid()}:
        return f"belongs to another user (uid {found.st_uid})"
    if found.st_mode & _WRITABLE_BY_OTHERS:
        return f"is writable by other users (mode {stat.S_IMODE(found.st_mode):03o})"
    return ""


def _open_file(path: Path, flags: int, mode: int, directory: int) -> int:
    try:
        descriptor = os.open(path.name, flags | FLAGS, mode, dir_fd=directory)
    except OSError as error:
        raise _explain(error, path) from error
    try:
        _check(os.fstat(descriptor), path)
    except UntrustedFile:
        os.close(descriptor)
        raise
    return descriptor


def _explain(error: OSError, path: Path, *, is_directory: bool = False) -> Exception:
    """Return the reason why ``path`` could not be opened, ``error`` itself if it says so."""
    if error.errno in _OTHER_KINDS:
        _check(os.lstat(path), path, is_directory=is_directory)
    # Opened beneath a descriptor, the path in the error would be the last name alone.
    error.filename = str(path)
    return error


def _check(found: os.stat_result, path: Path, *, is_directory: bool = False) -> None:
    reason = find_distrust(found, is_directory=is_directory)
    if not reason:
        return
    import shlex

    if found.st_uid not in {0, os.geteuid()}:
        hint = "Use a store of this user: --store DIR, or XDG_CACHE_HOME."
    elif "writable" in reason:
        hint = f"Close it to others, and check its files: chmod go-w {shlex.quote(str(path))}"
    else:
        hint = f"Remove it, or use another store: rm -r {shlex.quote(str(path))}"
    raise UntrustedFile(f"cannot trust the image store: {path} {reason}", hint)
