"""``slipway serve`` as a child process, and the leftovers of the server and of machines."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

from support.commands import Commands

if TYPE_CHECKING:
    from types import TracebackType

FAKE_SERVER = Path(__file__).with_name("fake_server.py")
# Seconds. Nothing waits for it but a test that fails.
PATIENCE = 60.0
# How often the server's process is looked at while it starts.
_LOOK_SECONDS = 0.5


class Server:
    """Server on ``<directory>/api``; with ``fake`` the machines are those of fake_machine.py.

    A Unix socket's path has 107 bytes at most, therefore ``directory`` has to be short. The server
    may be started again after the end, which sweeps the leftovers of a crash.
    """

    def __init__(self, directory: Path, *options: str, fake: bool = False) -> None:
        self.path = directory / "api"
        self.run_directory = directory / "api.d"
        self.log = directory / "log"
        temporary = directory / "tmp"
        temporary.mkdir()
        self._notifications = directory / "notify"
        self.commands = Commands(temporary, {"NOTIFY_SOCKET": str(self._notifications)})
        if fake:
            self.commands.prefix = (sys.executable, str(FAKE_SERVER))
        # What is made in the background is for the tests that want it.
        self._options = options if "--pool" in options else ("--pool", "0", *options)
        self._told: socket.socket | None = None
        self.process: subprocess.Popen[bytes]

    def start(self) -> Self:
        """Start the server, and wait for the message that all is ready: sd_notify(3)."""
        self.spawn()
        try:
            self.wait_ready()
        except BaseException as error:
            self.kill()
            error.add_note(self.log.read_text())
            raise
        return self

    def spawn(self) -> None:
        """Start the server, and do not wait."""
        self._notifications.unlink(missing_ok=True)
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(str(self._notifications))
        self._told.settimeout(_LOOK_SECONDS)
        with self.log.open("ab") as log:
            self.process = self.commands.start(
                "slipway",
                *self.list_arguments(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def list_arguments(self) -> tuple[str, ...]:
        """Return the arguments of ``slipway``."""
        return ("serve", "--api-sock", str(self.path), *self._options)

    def wait_ready(self) -> None:
        """Wait until the server serves."""
        assert self._told is not None
        for _ in range(round(PATIENCE / _LOOK_SECONDS)):
            with suppress(TimeoutError):
                if b"READY=1" in self._told.recv(4096).split(b"\n"):
                    return
            assert self.process.poll() is None, f"the server has ended: {self.log.read_text()}"
        raise AssertionError(f"the server was not ready in {PATIENCE:g} s: {self.log.read_text()}")

    def machines(self) -> list[psutil.Process]:
        """Return the processes that the server has started, which are machines only."""
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def outliving(self) -> list[psutil.Process]:
        """Processes that do not end, although the server has."""
        # The kernel kills a machine with its parent, but nobody waits for that.
        _, alive = psutil.wait_procs(self.commands.processes(), timeout=30)
        return alive

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.reap(None)

    def stop(self) -> int:
        """End the server as systemd does; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.reap(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def leftovers(self) -> list[str]:
        """Processes that do not end, sockets, directories and temporary files."""
        left = [str(path) for path in (self.path, *self.run_directory.rglob("*")) if path.exists()]
        return left + self.commands.leftovers()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and self.log.exists():
            error.add_note(self.log.read_text())
        self.stop()

    def reap(self, seconds: float | None) -> None:
        """Wait for the end, for a limited time."""
        self.process.wait(seconds)
        if self._told is not None:
            self._told.close()
