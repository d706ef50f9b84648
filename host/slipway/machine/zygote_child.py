"""Process that a zygote has forked: not a child of this process, but owned by it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._util.text import to_plain_line
from slipway.machine.process import ChildProcess

if TYPE_CHECKING:
    from typing import Protocol

    class Parent(Protocol):
        """Zygote that is the parent of the process."""

        def on_child_ended(self, process: ZygoteChild) -> None:
            """Forget the process, which has ended."""
            ...

        async def wait_settled(self) -> None:
            """Wait for the end of the zygote, if this was its last child."""
            ...


_WORDS_BYTES = 4096


class ZygoteChild(ChildProcess):
    """Process of a VMM, seen by a pidfd, since its number may become that of another process.

    The parent reports the end to :meth:`set_exit_status`. When the parent ends, the kernel kills
    its children.
    """

    def __init__(self, number: int, pidfd: int, errors: int, parent: Parent) -> None:
        """Take over two descriptors: the process's pidfd, and the pipe of its stderr."""
        self._number = number
        self._pidfd = pidfd
        self._errors = errors
        self._parent = parent
        self._stderr_text = ""
        self._ended = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._number

    def set_exit_status(self, code: int) -> None:
        """Keep the exit status of the process, which has ended; negative for a signal."""
        if not self._ended.done():
            os.close(self._pidfd)
            self._ended.set_result(code)
            self._parent.on_child_ended(self)

    def on_parent_lost(self) -> None:
        """Wait for the kernel to kill the process, whose parent has ended."""
        if not self._ended.done():
            asyncio.get_running_loop().add_reader(self._pidfd, self._on_killed)

    def _on_killed(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self.set_exit_status(-signal.SIGKILL)

    async def read_stderr(self) -> str:
        """Return the text that the process wrote to stderr before its end; empty while it runs."""
        try:
            async with asyncio.timeout(1):
                await self.wait()
        except TimeoutError:
            return ""
        self._read_stderr()
        return self._stderr_text

    def _read_stderr(self) -> None:
        if self._errors >= 0:
            os.set_blocking(self._errors, False)
            with suppress(OSError):
                text = os.read(self._errors, _WORDS_BYTES).decode("utf-8", "replace")
                self._stderr_text = " ".join(to_plain_line(text).split())
            os.close(self._errors)
            self._errors = -1

    async def kill(self) -> None:
        """Kill the process and wait for its end."""
        if not self._ended.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        await self.wait()
        self._read_stderr()
        await self._parent.wait_settled()
