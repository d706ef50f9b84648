"""Joined files: many small files of a job in one message."""

from __future__ import annotations

from slipway_protocol import messages as m
from slipway_protocol.schema import MAX_DATA, MAX_ITEMS

# Capability of a peer that understands Files: in Hello of the host, in Ready of the agent.
JOINED_FILES = "files"
# Upper bound on the bytes of a file's msgpack headers: array, path, mode, data.
_HEADERS = 16


class FileJoiner:
    """Files of one job that wait for others to travel in the same message."""

    def __init__(self, job: int) -> None:
        self._job = job
        self._files: list[m.WholeFile] = []
        self._size = 0

    @staticmethod
    def accepts(path: str, size: int) -> bool:
        """Tell if a file of ``size`` bytes fits into one message."""
        return _measure_file(path, size) <= MAX_DATA

    def add(self, file: m.WholeFile) -> list[m.Files]:
        """Add a file that :meth:`accepts` allows; return the message that is full without it."""
        size = _measure_file(file.path, len(file.data))
        is_full = self._size + size > MAX_DATA or len(self._files) == MAX_ITEMS
        full = self.take() if is_full else []
        self._files.append(file)
        self._size += size
        return full

    def take(self) -> list[m.Files]:
        """Return the message of the files that wait; an empty list if there are none."""
        if not self._files:
            return []
        message = m.Files(self._job, tuple(self._files))
        self._files.clear()
        self._size = 0
        return [message]


def _measure_file(path: str, size: int) -> int:
    """Return an upper bound on the bytes of a file in a message."""
    return _HEADERS + len(path.encode("utf-8", "surrogateescape")) + size
