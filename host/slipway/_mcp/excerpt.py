"""Part of a long output that is shown to a language model."""

from __future__ import annotations

import codecs
from collections import deque

from slipway._util.units import KIB

# The reason of an error is at the beginning of a compiler's output, and at the end of the output of
# most programs. 32 KiB are about 10,000 tokens.
HEAD = 24 * KIB
TAIL = 8 * KIB


class Excerpt:
    """The first 24 and the last 8 KiB of a stream, and the number of bytes between them."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._behind = 0
        self.size = 0

    def add(self, data: bytes) -> None:
        """Append ``data``. After the first 24 KiB, at most 8 KiB and one piece are held."""
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
        """True if bytes in the middle are left out."""
        return self.size > HEAD + TAIL

    def render(self) -> str:
        """Return the kept text; invalid UTF-8 is replaced, and a gap is marked."""
        tail = b"".join(self._tail)
        if not self.truncated:
            return (bytes(self._head) + tail).decode("utf-8", "replace")
        # Incomplete characters at the edges of the gap are left out as well.
        head = codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._head))
        last = tail[-TAIL:]
        cut = next((at for at in range(4) if last[at] & 0xC0 != 0x80), 0)
        left_out = self.size - HEAD - TAIL
        return (
            f"{head}\n[... {left_out} bytes left out ...]\n{last[cut:].decode('utf-8', 'replace')}"
        )
