"""Measurements that are done once per boot of the host, and kept in a file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._util.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway_initramfs.disk.trusted_tree import TrustedTree

_MAX_LINE = 128


def measure_once_per_boot(file: Path, measure: Callable[[], int]) -> int:
    """Return the number in ``file`` if it is of this boot, else measure and write the file.

    Exceptions of ``measure`` are passed on. If the file cannot be written, the next call measures
    again.

    Raises:
        ImageError: the file, which lies in the image store, is a link or no plain file, or others
            can change it.
    """
    from slipway_initramfs.disk.trusted_tree import TrustedTree
    from slipway_initramfs.errors import UntrustedFile

    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    tree = TrustedTree(file.parent)
    try:
        known = _read_number(tree, file, boot)
        if known is not None:
            return known
        measured = measure()
        # One short write: a reader sees the whole line or rejects it.
        with suppress(OSError):
            line = tree.open_file(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                os.write(line, f"{boot} {measured}\n".encode())
            finally:
                os.close(line)
    except UntrustedFile as error:
        raise ImageError(error.message, error.hint) from error
    return measured


def _read_number(tree: TrustedTree, file: Path, boot: str) -> int | None:
    """Return the number in ``file``, or None if the file is not of this boot."""
    try:
        line = tree.open_file(file)
    except OSError:
        return None
    try:
        text = os.read(line, _MAX_LINE).decode("ascii", "replace")
    finally:
        os.close(line)
    known, _, number = text.partition(" ")
    number, end, _ = number.partition("\n")
    return int(number) if known == boot and number.isdecimal() and end else None
