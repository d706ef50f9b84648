"""Event loop for file descriptors, deadlines and ended children, on one thread."""

from __future__ import annotations

import os
import select
import signal
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from resource import struct_rusage

    Handler = Callable[[int], None]
    # Process id, status as of wait(2), usage of the process and its own children.
    Child = tuple[int, int, struct_rusage]
    ChildHandler = Callable[[list[Child]], None]

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
ENDED = select.EPOLLHUP | select.EPOLLERR


class Loop:
    """Event loop, which calls handlers for descriptors, deadlines and ended children.

    The process must be PID 1 or a subreaper, and no other code in it may wait for children. The
    loop waits for every child that ends, so that no zombie remains and no process is mistaken for
    another.
    """

    def __init__(self, on_children: ChildHandler) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._deadlines: dict[Callable[[], None], float] = {}
        self._on_children = on_children
        self._wakeup, wakeup_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _ignore_signal)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        self.watch(self._wakeup, READABLE, self._reap_children)

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call ``handler(events)`` whenever ``fd`` has one of ``events``, an end or an error."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``, if the loop does. Call this before ``fd`` is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, deadline: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, at ``deadline`` in monotonic seconds; replace an old deadline."""
        self._deadlines[callback] = deadline

    def cancel_call(self, callback: Callable[[], None]) -> None:
        """Cancel the deadline of ``callback``, if any."""
        self._deadlines.pop(callback, None)

    def run_once(self) -> None:
        """Wait for the next event or deadline, and call the handlers that are due."""
        timeout = -1.0
        if self._deadlines:
            timeout = max(0.0, min(self._deadlines.values()) - monotonic())
        for fd, events in self._epoll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:  # an earlier handler of this turn may have called forget()
                handler(events)
        if self._deadlines:
            now = monotonic()
            for callback, deadline in list(self._deadlines.items()):
                if deadline <= now and self._deadlines.get(callback) == deadline:
                    del self._deadlines[callback]
                    callback()

    def _reap_children(self, _events: int) -> None:
        os.read(self._wakeup, 4096)
        ended: list[Child] = []
        try:
            while (child := os.wait4(-1, os.WNOHANG))[0]:
                ended.append(child)
        except ChildProcessError:
            pass  # all children have been waited for
        if ended:
            self._on_children(ended)


def _ignore_signal(_number: int, _frame: object) -> None:
    """Do nothing. Without a Python handler, the wake-up descriptor is not written to."""
