"""Report of a gateway: connections, bytes and denied requests of its guest."""

from __future__ import annotations

import time

from slipway.machine.gateway.link import TokenBucket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_DENIED = 32
# So many refusals are answered at once, and so many a second later. A guest that asks for more gets
# no answer, and waits for its own time-outs.
MAX_ANSWERS = 1000
ANSWER_RATE = 10.0
# Reason of the connections that end since the limit of bytes is reached.
LIMIT_REACHED = "limit-reached"
# Longer than any name of DNS.
MAX_WORD = 255


class Report:
    """Counters of a gateway. What was denied is counted by destination, port and reason."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing; ``clock`` returns seconds."""
        self._clock = clock
        self._answers = TokenBucket(ANSWER_RATE, MAX_ANSWERS, clock())
        self.connections = 0
        self.bytes_to_guest = 0
        self.bytes_from_guest = 0
        # Bytes of both directions together that may pass; 0 for no limit.
        self.limit = 0
        # True once bytes did not pass.
        self.is_limit_reached = False
        self.denials = 0
        self._denied: dict[tuple[str, int, str], int] = {}

    def bound(self, length: int) -> int:
        """Return how many of ``length`` bytes the limit lets pass now."""
        if not self.limit:
            return length
        left = self.limit - self.bytes_to_guest - self.bytes_from_guest
        if length > left:
            self.is_limit_reached = True
        return min(length, left)

    def count_denied(self, destination: str, port: int, reason: str) -> None:
        """Count a denied request, or a connection that was cut.

        ``port`` is 0 for a look-up of a name.
        """
        self.denials += 1
        key = destination[:MAX_WORD], port, reason
        if key in self._denied or len(self._denied) < MAX_DENIED:
            self._denied[key] = self._denied.get(key, 0) + 1

    def deny(self, destination: str, port: int, reason: str) -> bool:
        """Count a denied request; return True if the guest should get an answer."""
        self.count_denied(destination, port, reason)
        if self._answers.compute_wait(self._clock()):
            return False
        self._answers.take(1)
        return True

    def format(self) -> dict[str, str]:
        """Return the texts of a control message."""
        return {
            "connections": str(self.connections),
            "to_guest": str(self.bytes_to_guest),
            "from_guest": str(self.bytes_from_guest),
            "denials": str(self.denials),
            "denied": "\n".join(self._format_denied()),
        }

    def _format_denied(self) -> Iterator[str]:
        for (destination, port, reason), count in self._denied.items():
            yield f"{port} {count} {_plain(destination)} {_plain(reason)}"


def _plain(word: str) -> str:
    """Return ``word`` without spaces and control characters, which would separate words."""
    return "".join(c if c.isprintable() and c != " " else "_" for c in word) or "_"
