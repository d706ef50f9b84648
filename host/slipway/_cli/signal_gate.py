"""Signals of a command without an event loop."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from slipway._cli.forced_end import force_end
from slipway._cli.terminal import Interrupted, list_ending_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

_DRAIN_SIZE = 4096


class SignalGate:
    """Gate for signals: they take effect where this command waits, and nowhere else.

    As a context manager, the gate takes over the signals that end a command; waiting then raises
    Interrupted. Python writes each signal to a pipe (``signal.set_wakeup_fd``) that is polled
    together with the descriptor, so that no signal is lost between a check and the wait.
    """

    def __init__(self) -> None:
        self._pending: list[int] = []
        # Signals that end the command: all, and those that have arrived, in their order.
        self._endings: list[signal.Signals] = []
        self._received: list[int] = []
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._shields = 0
        self._is_calling = False
        self._reader = -1
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, self._reader)
            stack.callback(os.close, writer)
            previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            stack.callback(signal.set_wakeup_fd, previous)
            self._endings = list_ending_signals()
            for number in self._endings:
                stack.callback(signal.signal, number, signal.signal(number, self._keep))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def wait(self, descriptor: int, events: int, seconds: float | None) -> bool:
        """Wait until poll(2) reports ``events`` for ``descriptor``; return False after ``seconds``.

        A negative ``descriptor`` is never ready.

        Raises:
            Interrupted: a signal that ends the command was received.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if descriptor >= 0:
            poll.register(descriptor, events)
        while True:
            self._handle_signals()
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = [number for number, _ in poll.poll(left)]
            if descriptor in ready or not ready:
                return bool(ready)
            with suppress(BlockingIOError):
                os.read(self._reader, _DRAIN_SIZE)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of ``data`` to a descriptor that may block.

        Raises:
            Interrupted: a signal that ends the command was received.
            OSError: the descriptor cannot be written.
        """
        rest = memoryview(data)
        while rest:
            self.wait(descriptor, select.POLLOUT, None)
            # A pipe that poll(2) calls ready takes this much without blocking (pipe(7)).
            with suppress(BlockingIOError):
                rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Hold back a first interruption until the end of the block; a second is not held back."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1

    def add_signal_handler(self, number: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` at the signal ``number``, from within a wait."""
        self._callbacks[number] = callback
        signal.signal(number, self._keep)

    def remove_signal_handler(self, number: int) -> None:
        """Restore the default effect of the signal ``number``."""
        self._callbacks.pop(number, None)
        signal.signal(number, signal.SIG_DFL)

    def _keep(self, number: int, _frame: Any) -> None:
        if number in self._endings and number not in self._callbacks:
            force_end(number)
        self._pending.append(number)

    def _handle_signals(self) -> None:
        # A callback may wait itself; signals that arrive meanwhile are handled after it.
        while self._pending and not self._is_calling:
            number = self._pending.pop(0)
            if number in self._callbacks:
                self._is_calling = True
                try:
                    self._callbacks[number]()
                finally:
                    self._is_calling = False
            elif number in self._endings:
                self._received.append(number)
        if len(self._received) > (1 if self._shields else 0):
            raise Interrupted(self._received[0])
