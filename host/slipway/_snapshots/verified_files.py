"""Memos of files that were verified since the host has booted.

A change through the file system changes a file's times. Decay of the disk does not, and is looked
for once per boot.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway_initramfs.disk.trusted_tree import TrustedTree

# Nanoseconds after which each write gives a file a new time: some file systems count in 2 s.
_SETTLED = 2_000_000_000


class VerifiedFile:
    """Open file and its memo, the file ``memo`` in ``tree``; to be created before a read."""

    def __init__(self, descriptor: int, tree: TrustedTree, memo: Path) -> None:
        self._tree = tree
        self._memo = memo
        self._note = _describe_file(descriptor)

    @property
    def is_verified(self) -> bool:
        """True if the file has not changed since it was verified in this boot of the host.

        Raises:
            UntrustedFile: of :mod:`slipway_initramfs.errors`; others can change the memo.
        """
        if not self._note:
            return False
        try:
            memo = self._tree.open_file(self._memo)
            try:
                return os.read(memo, len(self._note) + 1) == self._note
            finally:
                os.close(memo)
        except OSError:
            return False

    def remember(self) -> None:
        """Write the memo. If it cannot be written, the next user verifies the file again."""
        if self._note:
            # One short write: a reader sees all of it or nothing.
            with suppress(OSError):
                self._tree.make_directory(self._memo.parent)
                memo = self._tree.open_file(self._memo, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                try:
                    os.write(memo, self._note)
                finally:
                    os.close(memo)


def _describe_file(descriptor: int) -> bytes:
    """Return text that changes with the file's bytes and each boot; empty if that is unsure."""
    found = os.fstat(descriptor)
    if not found.st_nlink or max(found.st_mtime_ns, found.st_ctime_ns) + _SETTLED > time.time_ns():
        return b""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return b""
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return " ".join([boot, *map(str, numbers)]).encode() + b"\n"
