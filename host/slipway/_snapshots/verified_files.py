"""Which files have been read and found sound since the host has booted.

Whatever changes a file by the file system changes its times. A disk that forgets does not, and so
that is looked for once a boot.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_SETTLED: Final = 2_000_000_000
"""Nanoseconds after which a write is sure to give a file another time: the clocks of some file
systems are as coarse as that."""
# Not to wait for somebody who reads or writes where a file should be.
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class VerifiedFile:
    """An open file, and the memo ``memo`` of it. To be made before the file is read."""

    def __init__(self, descriptor: int, memo: Path) -> None:
        self._memo = memo
        self._note = _note(descriptor)

    @property
    def is_verified(self) -> bool:
        """Whether it is as it was when it was found sound, in this boot of the host."""
        if not self._note:
            return False
        try:
            memo = os.open(self._memo, os.O_RDONLY | _FLAGS)
            try:
                return os.read(memo, len(self._note) + 1) == self._note
            finally:
                os.close(memo)
        except OSError:
            return False

    def remember(self) -> None:
        """Write down that it is sound; where that cannot be written, it is checked again."""
        if self._note:
            # One short write: a reader sees all of it or nothing.
            with suppress(OSError):
                self._memo.parent.mkdir(exist_ok=True)
                memo = os.open(self._memo, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o666)
                try:
                    os.write(memo, self._note)
                finally:
                    os.close(memo)


def _note(descriptor: int) -> bytes:
    """What changes with the file's bytes and with each boot; nothing where that is not sure."""
    found = os.fstat(descriptor)
    if not found.st_nlink or max(found.st_mtime_ns, found.st_ctime_ns) + _SETTLED > time.time_ns():
        return b""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return b""
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return " ".join([boot, *map(str, numbers)]).encode() + b"\n"
