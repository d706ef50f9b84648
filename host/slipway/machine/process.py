"""Child processes that never outlive this process."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway._util.text import to_plain_line

if TYPE_CHECKING:
    from collections.abc import Sequence

# setpriv requests the child's death with its parent. A parent that died before the request would go
# unnoticed, so the shell compares its parent's id with the expected one. exec keeps the request.
# Without core files, a guest's memory never lands on a disk.
_GUARD = 'ulimit -c 0; test "$PPID" = "$0" || exit 125; exec "$@"'

_WORDS_BYTES = 4096

HINTS = {
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "Run fewer machines at once.",
    errno.EAGAIN: "Raise the limit of processes (ulimit -u), or run fewer machines at once.",
    errno.ENOMEM: "Run fewer machines at once.",
}


def read_last_words(pipe: int) -> str:
    """Return what a process that has ended wrote to its stderr, on one line."""
    os.set_blocking(pipe, False)
    with suppress(OSError):
        text = os.read(pipe, _WORDS_BYTES).decode("utf-8", "replace")
        return " ".join(to_plain_line(text).split())
    return ""


def _build_guard() -> list[str]:
    """Return the command that is put before a program to bind its life to this process."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        from slipway._util.install_command import format_install_command

        raise HostError(
            "setpriv is not installed",
            f"Install util-linux: {format_install_command('util-linux')}",
        )
    guard = [setpriv, "--pdeathsig", "KILL", "--no-new-privs", "--"]
    return [*guard, "sh", "-c", _GUARD, str(os.getpid())]


class ChildProcess:
    """Child in a session of its own, which the kernel kills when this process dies."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._stderr_text = ""
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # A pidfd is readable once the process has ended: no thread, no SIGCHLD handler.
        self._pidfd = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @classmethod
    def start(
        cls, argv: Sequence[str], *, pass_fds: Sequence[int] = (), guarded: bool = True
    ) -> ChildProcess:
        """Start ``argv``; its stderr goes to a pipe.

        Without ``guarded``, the program itself has to bind its life to that of its parent.

        Raises:
            HostError: setpriv or the program is missing, or the host has no room for a process.
        """
        command = [*(_build_guard() if guarded else ()), *argv]
        try:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except OSError as error:
            hint = HINTS.get(error.errno or 0, "")
            raise HostError(f"cannot start {argv[0]}: {error.strerror}", hint) from None
        try:
            return cls(popen)
        except OSError as error:  # too many descriptors to watch the process
            popen.kill()
            popen.communicate()
            hint = HINTS.get(error.errno or 0, "")
            raise HostError(f"cannot watch {argv[0]}: {error.strerror}", hint) from None

    @property
    def pid(self) -> int:
        """The id of the child, and of its process group."""
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        """True after the end of the child."""
        return self._ended.done()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(self._popen.wait())

    async def read_stderr(self) -> str:
        """Return the text that the child wrote to stderr before its end; empty while it runs."""
        try:
            async with asyncio.timeout(1):
                await self.wait()
        except TimeoutError:
            return ""
        # Sender and receiver may both notice the end, and both call this.
        self._stderr_text = self._stderr_text or self._take_stderr()
        return self._stderr_text

    def _take_stderr(self) -> str:
        """Close the pipe of stderr, and return its content; empty if it is closed."""
        assert self._popen.stderr is not None
        if self._popen.stderr.closed:
            return ""
        with self._popen.stderr as stream:
            return read_last_words(stream.fileno())

    async def wait(self) -> int:
        """Wait for the end of the child; return its exit status, negative for a signal."""
        return await asyncio.shield(self._ended)

    async def kill(self) -> None:
        """Kill the child's process group, and wait for its end. May be called again."""
        if not self._ended.done():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.wait()
        assert self._popen.stderr is not None
        self._popen.stderr.close()
