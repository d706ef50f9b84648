"""Files of the store, which readers see complete or not at all, even after a crash."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from slipway_initramfs.disk.spool import make_disk_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.store.reader import StoreReader


def write_aside(store: StoreReader, writer: Callable[[BinaryIO], object]) -> Path:
    """Write a temporary file with ``writer`` and sync it; return its path. The caller renames it.

    Exceptions of ``writer`` are passed on.

    Raises:
        BuildFailed: the disk is full, or writing fails.
    """
    with ExitStack() as on_error:
        try:
            with tempfile.NamedTemporaryFile(dir=store.temporary, delete=False) as file:
                path = Path(file.name)
                on_error.callback(path.unlink, missing_ok=True)
                writer(file)  # type: ignore[arg-type]
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
        except OSError as error:
            raise make_disk_error(error, store.root) from error
        on_error.pop_all()
    return path


def publish(store: StoreReader, aside: Path, target: Path) -> None:
    """Rename a temporary file to ``target``; an error removes it.

    Raises:
        BuildFailed: the file cannot be renamed.
    """
    try:
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise make_disk_error(error, store.root) from error


def make_directory(store: StoreReader, directory: Path) -> None:
    """Create a directory of the store with its parents.

    Raises:
        BuildFailed: the directory cannot be created.
        UntrustedFile: a directory is a link, or another user can change it.
    """
    try:
        store.tree.make_directory(directory)
    except OSError as error:
        raise make_disk_error(error, store.root) from error


def remove_file(store: StoreReader, path: Path) -> None:
    """Remove a file of the store, if it is there.

    Raises:
        BuildFailed: the file cannot be removed.
        UntrustedFile: a directory above is a link, or another user can change it.
    """
    try:
        store.tree.remove_file(path)
    except OSError as error:
        raise make_disk_error(error, store.root) from error


def sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
