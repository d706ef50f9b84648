"""Damage that lets others than its owner decide what a store has."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STRANGER = 2001


def replace_by_link(path: Path) -> str:
    """Replace a file or directory by a link to it."""
    aside = path.with_name(f".{path.name}.aside")
    path.rename(aside)
    path.symlink_to(aside.name)
    return "is a symbolic link"


def replace_by_fifo(path: Path) -> str:
    """Replace a file or directory by a FIFO, whose opening would block."""
    _remove(path)
    os.mkfifo(path)
    return "is a FIFO"


def replace_by_device(path: Path) -> str:
    """Replace a file or directory by a device without an end."""
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    _remove(path)
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))
    return "is a device"


def replace_by_directory(path: Path) -> str:
    """Replace a file by a directory."""
    _remove(path)
    path.mkdir()
    return "is a directory"


def give_away(path: Path) -> str:
    """Give a file or directory to another user."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    return f"belongs to another user (uid {STRANGER})"


def open_to_all(path: Path) -> str:
    """Let all users write to a file or directory."""
    path.chmod(path.stat().st_mode | 0o022)
    return "is writable by other users"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


# Each changes a file, and returns what an error says of it.
OF_FILES: tuple[Callable[[Path], str], ...] = (
    replace_by_link,
    replace_by_fifo,
    replace_by_device,
    replace_by_directory,
    give_away,
    open_to_all,
)
OF_DIRECTORIES: tuple[Callable[[Path], str], ...] = (
    replace_by_link,
    replace_by_fifo,
    give_away,
    open_to_all,
)
