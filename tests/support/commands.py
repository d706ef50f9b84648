"""Real console scripts as child processes, and their leftovers."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping

SCRIPTS = Path(sys.executable).parent
_MARKER = "SLIPWAY_TEST_MARKER"
# Seconds. A loaded host that emulates boots in half a minute; only a test that fails waits for it.
PATIENCE = 240


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: bytes
    stderr: str


class Commands:
    """Runner of commands with temporary files and descendants of their own.

    ``prefix`` is put before each command.
    """

    def __init__(self, temporary: Path, environment: Mapping[str, str] | None = None) -> None:
        self.temporary = temporary
        self.prefix: tuple[str, ...] = ()
        self._marker = uuid.uuid4().hex
        self.environment = {
            **os.environ,
            _MARKER: self._marker,
            "TMPDIR": str(temporary),
            **(environment or {}),
        }

    @staticmethod
    def path(program: str) -> Path:
        """Where the console script lies."""
        return SCRIPTS / program

    def start(self, program: str, *arguments: str | Path, **popen: Any) -> subprocess.Popen[bytes]:
        """Start ``slipway`` or ``vmm-run`` with pipes on all three descriptors."""
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [*self.prefix, str(self.path(program)), *map(str, arguments)]
        options: dict[str, Any] = {**pipes, **popen}
        return subprocess.Popen(command, env=self.environment, **options)

    def __call__(
        self, program: str, *arguments: str | Path, stdin: bytes | BinaryIO = b"", **popen: Any
    ) -> Ended:
        """Run a command to the end; ``stdin`` is its input, or a file."""
        if not isinstance(stdin, bytes):
            popen["stdin"] = stdin
        with self.start(program, *arguments, **popen) as process:
            try:
                data = stdin if isinstance(stdin, bytes) else None
                stdout, stderr = process.communicate(data, PATIENCE)
            except BaseException:
                process.kill()
                raise
        return Ended(process.returncode, stdout or b"", (stderr or b"").decode())

    def processes(self) -> list[psutil.Process]:
        """Return all processes that these commands have started, orphans included."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get(_MARKER) == self._marker:
                    found.append(process)
        return found

    def leftovers(self) -> list[str]:
        """Processes that do not end, and temporary files."""
        # The kernel kills a machine with its parent, but nobody waits for that.
        _, alive = psutil.wait_procs(self.processes(), timeout=30)
        return [str(process) for process in alive] + [
            str(path) for path in self.temporary.rglob("*")
        ]
