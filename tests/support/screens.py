"""A terminal of a test's own, for commands that look at theirs."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import time
from typing import TYPE_CHECKING, Any, Self

from support.commands import PATIENCE

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType

    from support.commands import Commands


class Screen:
    """Terminal that starts commands, types, and reads the shown text."""

    def __init__(self, rows: int = 30, columns: int = 100) -> None:
        self._ours, self._theirs = os.openpty()
        self.resize(rows, columns)
        self.shown = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._theirs)
        os.close(self._ours)

    @property
    def state(self) -> list[Any]:
        """The attributes of the terminal: tcgetattr(3)."""
        return termios.tcgetattr(self._theirs)

    @property
    def raw(self) -> bool:
        """Whether the terminal neither echoes nor gathers lines nor makes signals of characters."""
        wanted = termios.ECHO | termios.ICANON | termios.ISIG
        return not self.state[3] & wanted

    @property
    def popen(self) -> dict[str, Any]:
        """Arguments of Popen for a process that has this as controlling terminal and streams."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        return {**streams, "preexec_fn": self._take_control}

    def start(self, commands: Commands, program: str, *arguments: Any) -> subprocess.Popen[bytes]:
        """Start a command of ours on the terminal."""
        return commands.start(program, *arguments, **self.popen)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        """Type ``data``."""
        os.write(self._ours, data)

    def until(self, text: bytes) -> None:
        """Read until ``text`` has been shown."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.shown:
            ready, _, _ = select.select([self._ours], [], [], deadline - time.monotonic())
            assert ready, f"no {text!r} came: {self.shown!r}"
            self.shown += os.read(self._ours, 65536)

    def rest(self, process: subprocess.Popen[bytes]) -> bytes:
        """All that has been shown when the process has ended."""
        while True:
            ended = process.poll() is not None
            ready, _, _ = select.select([self._ours], [], [], 0 if ended else 0.05)
            if ready:
                self.shown += os.read(self._ours, 65536)
            elif ended:
                return self.shown

    def _take_control(self) -> None:
        os.setsid()
        fcntl.ioctl(self._theirs, termios.TIOCSCTTY, 0)
        # A command is not to be ended by what its starter was told to ignore.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
