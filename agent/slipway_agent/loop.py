"""The event loop: file descriptors, deadlines and ended children, on one thread."""

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
    # Process id, status as of wait(2), what it and its own children used.
    Child = tuple[int, int, struct_rusage]
    ChildHandler = Callable[[list[Child]], None]

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
ENDED = select.EPOLLHUP | select.EPOLLERR


class Loop:
    """Calls handlers when their descriptor is ready, their time has come or a child has ended.

    The process must be PID 1 or a subreaper, and nothing else in it may wait for children: every
    child that ends is waited for here, so that none is mistaken for another and none stays behind.
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
        """Call ``handler(events)`` whenever ``fd`` has one of ``events``, or an end or error."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``, which may not be watched at all. Before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_at(self, deadline: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` once at ``deadline`` (monotonic seconds); replaces its former one."""
        self._deadlines[callback] = deadline

    def cancel_call(self, callback: Callable[[], None]) -> None:
        """Forget the deadline of ``callback``, if it has one."""
        self._deadlines.pop(callback, None)

    def run_once(self) -> None:
        """Wait for the next event or deadline and handle all that is due."""
        timeout = -1.0
        if self._deadlines:
            timeout = max(0.0, min(self._deadlines.values()) - monotonic())
        for fd, events in self._epoll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:  # an earlier handler of this turn may have dropped it
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
            pass  # there are none left
        if ended:
            self._on_children(ended)


def _ignore_signal(_number: int, _frame: object) -> None:
    """A handler has to exist, or the wake-up descriptor is not written to."""
