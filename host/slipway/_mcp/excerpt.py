"""The part of a long text that a language model is shown."""

from __future__ import annotations

import codecs
from collections import deque

KIB = 1024
# What explains an error stands at the beginning of a compiler's output, and at the end of most
# programs'. 32 KiB are about 10,000 tokens.
HEAD = 24 * KIB
TAIL = 8 * KIB


class Excerpt:
    """The first 24 and the last 8 KiB of a stream; what is between is counted."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._behind = 0
        self.size = 0

    def add(self, data: bytes) -> None:
        """Take what comes next; at most the last 8 KiB and one more piece are held."""
        self.size += len(data)
        room = HEAD - len(self._head)
        self._head += data[:room]
        if rest := data[room:]:
            self._tail.append(rest)
            self._behind += len(rest)
            while self._behind - len(self._tail[0]) >= TAIL:
                self._behind -= len(self._tail.popleft())

    @property
    def truncated(self) -> bool:
        """Whether something between is left out."""
        return self.size > HEAD + TAIL

    def text(self) -> str:
        """What was kept; bytes that are not UTF-8 are replaced, and a gap is marked."""
        tail = b"".join(self._tail)
        if not self.truncated:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        # Characters that the gap has cut in two belong to the gap.
        head = codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._head))
        last = tail[-TAIL:]
        cut = next((at for at in range(4) if last[at] & 0xC0 != 0x80), 0)
        left_out = self.size - HEAD - TAIL
        return (
            f"{head}\n[... {left_out} bytes left out ...]\n{last[cut:].decode('utf-8', 'replace')}"
        )
