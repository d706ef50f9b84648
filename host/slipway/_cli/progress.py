"""Display of long steps on stderr."""

from __future__ import annotations

import sys
import time

from slipway._cli.screen import find_width, format_step, is_screen
from slipway._cli.terminal import write_line, write_text
from slipway._util.text import to_plain_line


class Progress:
    """Display of long steps: one changing line on a terminal, else lines for a log.

    A log gets a line for each new kind of step (the first word), and at most one per second of the
    same kind.
    """

    def __init__(self) -> None:
        self._terminal = is_screen(sys.stderr)
        self._shown_at = 0.0
        self._kind = ""
        self._pending = False

    def __call__(self, line: str) -> None:
        """Show ``line``."""
        kind, now = line.partition(" ")[0], time.monotonic()
        if self._terminal:
            # Only the last part of a wrapped line could be overwritten.
            write_text(f"\r\x1b[K{format_step(to_plain_line(line), find_width(sys.stderr) - 1)}")
            self._pending = True
        elif kind != self._kind or now - self._shown_at >= 1:
            self._kind, self._shown_at = kind, now
            write_line(line)

    def clear(self) -> None:
        """Remove the line of the last step."""
        if self._pending:
            write_text("\r\x1b[K")
            self._pending = False
