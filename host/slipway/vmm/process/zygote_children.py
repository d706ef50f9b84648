"""Children of a zygote, and the loop in which it waits for their ends and for its parent."""

from __future__ import annotations

import os
import select
import signal

from slipway.vmm.process import control, descriptors
from slipway.vmm.process.control import send_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable


class ZygoteChildren:
    """Children by pidfd, whose starts and ends are reported to the parent of the zygote."""

    def __init__(self, channel: _socket.socket) -> None:
        """``channel`` leads to the parent, and stays the caller's."""
        self._channel = channel
        self._poll = select.epoll()
        self._processes: dict[int, int] = {}
        self._on_readable: dict[int, Callable[[], None]] = {}
        self._on_end: dict[int, Callable[[], None]] = {}

    def __contains__(self, process: int) -> bool:
        """Tell if the child ``process`` has not been reaped."""
        return process in self._processes.values()

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Have ``on_readable`` called in :meth:`wait_events` while ``descriptor`` is readable."""
        self._on_readable[descriptor] = on_readable
        self._poll.register(descriptor, select.EPOLLIN)

    def adopt(self, process: int, on_end: Callable[[], None] | None = None) -> None:
        """Keep a child, and send its pidfd to the parent; ``on_end`` is called once it is reaped.

        Without a parent, this process ends.

        Raises:
            OSError: this process has too many descriptors; the child was killed.
        """
        try:
            descriptor = os.pidfd_open(process)
        except OSError:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise
        self._processes[descriptor] = process
        if on_end is not None:
            self._on_end[process] = on_end
        self._poll.register(descriptor, select.EPOLLIN)
        message = control.encode(control.SPAWNED, process=str(process))
        try:
            descriptors.send(self._channel, message, [descriptor])
        except OSError:
            os._exit(1)

    def wait_events(self) -> bool:
        """Wait for a watched descriptor or the end of a child; return True if children are left."""
        for descriptor, _ in self._poll.poll():
            if descriptor in self._processes:
                self._reap(descriptor)
            else:
                self._on_readable[descriptor]()
        return bool(self._processes)

    def _reap(self, descriptor: int) -> None:
        process = self._processes.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(process, 0)
        if on_end := self._on_end.pop(process, None):
            on_end()
        code = os.waitstatus_to_exitcode(status)
        channel = self._channel.fileno()
        send_message(channel, control.EXITED, process=str(process), code=str(code))

    def close(self) -> None:
        """Close all descriptors of a copy of this object, in a child that is no zygote."""
        self._poll.close()
        for descriptor in self._processes:
            os.close(descriptor)
