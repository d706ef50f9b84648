"""Process that a zygote has forked: not a child of this process, but owned by it."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway.machine.process import ChildProcess, read_last_words

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

    def _take_stderr(self) -> str:
        if self._errors < 0:
            return ""
        try:
            return read_last_words(self._errors)
        finally:
            os.close(self._errors)
            self._errors = -1

    async def kill(self) -> None:
        """Kill the process and wait for its end."""
        if not self._ended.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        await self.wait()
        self._stderr_text = self._stderr_text or self._take_stderr()
        await self._parent.wait_settled()
