"""Progress bars of downloads."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from slipway._cli.screen import is_screen
from slipway._cli.terminal import write_line
from slipway._util.units import format_transfer

if TYPE_CHECKING:
    from slipway._cli.progress import Progress


class Downloads:
    """Display of downloads from a registry: bars on a terminal, else lines for a log.

    Methods may be called from several threads.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._terminal = is_screen(sys.stderr)
        self._lock = threading.Lock()
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._close()
        self._progress.clear()

    def show_notice(self, line: str) -> None:
        """Print a line that stays on the screen."""
        with self._lock:
            self._close()
        self._progress.clear()
        write_line(line)

    def show_transfer(self, label: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` bytes of ``label`` have arrived."""
        with self._lock:
            if not self._terminal:
                self._progress(f"downloading {label}: {format_transfer(done, total)}")
                return
            if self._bars is None:
                self._bars = _make_bars()
                self._progress.clear()
                self._bars.start()
            if label not in self._tasks:
                self._tasks[label] = self._bars.add_task(label, total=total)
            self._bars.update(self._tasks[label], completed=done)
            if self._bars.finished:
                self._close()

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()


def _make_bars() -> Any:
    # The import takes a third of a second.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("slipway: layer {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
