"""Output of the command, with its exit status behind a marker at the end."""

from __future__ import annotations


class Output:
    """Splitter of output and status; ``status`` is None until it has come."""

    def __init__(self, marker: bytes) -> None:
        self._marker = marker
        self._held = b""
        self.status: int | None = None

    def feed(self, data: bytes) -> bytes:
        """Take new bytes; return the bytes that are certainly output."""
        data = self._held + data
        begin = data.find(self._marker)
        if begin < 0:
            begin = len(data) - self._find_overlap(data)
        self._held = data[begin:]
        if self._held.startswith(self._marker) and self._held.endswith(b"\n"):
            self.status = int(self._held[len(self._marker) :])
        return data[:begin]

    def _find_overlap(self, data: bytes) -> int:
        """Return the number of bytes at the end of ``data`` with which a marker may begin."""
        for length in range(min(len(data), len(self._marker) - 1), 0, -1):
            if data.endswith(self._marker[:length]):
                return length
        return 0
