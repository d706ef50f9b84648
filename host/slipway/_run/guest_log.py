"""Log of the lines that a guest sends, bounded for each job."""

from __future__ import annotations

import logging

log = logging.getLogger("slipway.agent")
# Silent by default: text of a guest reaches a terminal only if the program asks for this log.
log.addHandler(logging.NullHandler())

# An agent logs a line or two in a bad case. A hostile one would fill the disk of the host.
MAX_LINES = 20
MAX_CHARACTERS = 500


class GuestLog:
    """Writer of a guest's lines: the first of each job are written, and the others counted."""

    def __init__(self) -> None:
        self._lines = 0

    def write(self, level: int, text: str) -> None:
        """Write ``text``, escaped to one line of ASCII and cut."""
        self._lines += 1
        if self._lines <= MAX_LINES:
            line = text[:MAX_CHARACTERS].encode("unicode_escape").decode("ascii")
            log.log(level, "%s", line[:MAX_CHARACTERS])

    def end_job(self) -> None:
        """Write how many lines were dropped, if any, and begin anew. May be called again."""
        dropped, self._lines = self._lines - MAX_LINES, 0
        if dropped > 0:
            log.warning("dropped %d more lines of the guest", dropped)
