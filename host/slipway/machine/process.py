"""Child processes that never outlive us."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._model.errors import HostError
from slipway._util.text import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

# setpriv asks the kernel to kill the child when we die. Death before that request would go
# unnoticed, so what setpriv starts looks whether its parent is still the one that it was born to.
# exec keeps the request; no core file of a guest's memory is ever written.
_GUARD = 'ulimit -c 0; test "$PPID" = "$0" || exit 125; exec "$@"'

_HINTS = {
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.ENFILE: "Run fewer machines at once.",
    errno.EAGAIN: "Raise the limit of processes (ulimit -u), or run fewer machines at once.",
    errno.ENOMEM: "Run fewer machines at once.",
}


def _build_guard() -> list[str]:
    """What is put before a command that knows nothing of us."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise HostError(
            "setpriv is not installed", "Install util-linux: apt-get install util-linux"
        )
    guard = [setpriv, "--pdeathsig", "KILL", "--no-new-privs", "--"]
    return [*guard, "sh", "-c", _GUARD, str(os.getpid())]


class ChildProcess:
    """A child in a session of its own that the kernel kills when this process dies."""

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
        """Start ``argv``; its standard error is kept out of the way of ours.

        Unless it is ``guarded``, the program itself has to ask for its death with ours.

        Raises:
            HostError: setpriv or the program is missing, or the host has no room for it.
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
            hint = _HINTS.get(error.errno or 0, "")
            raise HostError(f"cannot start {argv[0]}: {error.strerror}", hint) from None
        try:
            return cls(popen)
        except OSError as error:  # no descriptor is left to watch it with
            popen.kill()
            popen.communicate()
            hint = _HINTS.get(error.errno or 0, "")
            raise HostError(f"cannot watch {argv[0]}: {error.strerror}", hint) from None

    @property
    def pid(self) -> int:
        """The child's process id, which is its process group's as well."""
        return self._popen.pid

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(self._popen.wait())

    async def read_stderr(self) -> str:
        """What the child wrote to its standard error before it ended; empty while it runs."""
        try:
            async with asyncio.timeout(1):
                await self.wait()
        except TimeoutError:
            return ""
        assert self._popen.stderr is not None
        # Sending and receiving may both notice the end, and both ask.
        if not self._popen.stderr.closed:
            with self._popen.stderr as stream:
                os.set_blocking(stream.fileno(), False)
                text = (stream.read(4096) or b"").decode("utf-8", "replace")
            self._stderr_text = " ".join(plain(text).split())
        return self._stderr_text

    async def wait(self) -> int:
        """The exit status, negative for a signal."""
        return await asyncio.shield(self._ended)

    async def kill(self) -> None:
        """Kill the child's whole group and reap it."""
        if not self._ended.done():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.wait()
        assert self._popen.stderr is not None
        self._popen.stderr.close()
