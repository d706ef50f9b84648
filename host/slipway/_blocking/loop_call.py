"""Call of a coroutine in the event loop of another thread."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from slipway._util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")

# A thread that waits looks for signals so often, in seconds. Python checks for signals and then
# blocks: a signal between the two would be noticed at the end of the wait only.
_SIGNAL_SECONDS = 1.0


class LoopCall(Generic[_T]):
    """Call of ``make``, whose coroutine runs in ``loop`` while one other thread waits.

    Args:
        loop: the event loop of the other thread.
        make: creates the coroutine; called in the loop.
        timeout: longest time of the coroutine in seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[], Coroutine[Any, Any, _T]],
        timeout: float | None = None,
    ) -> None:
        self._loop = loop
        self._make = make
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None
        self._value: _T | None = None
        self._error: BaseException | None = None
        self._is_done = False
        # Locked until the end. An Event or a Future has an inner lock in Python, which Ctrl-C in
        # the waiting thread may leave locked for ever.
        self._running = threading.Lock()
        self._running.acquire()

    @property
    def is_done(self) -> bool:
        """True if the coroutine has returned or raised."""
        return self._is_done

    @property
    def has_value(self) -> bool:
        """True if the coroutine has returned."""
        return self._is_done and self._error is None

    def schedule(self) -> None:
        """Schedule the coroutine, with a copy of the context variables of this thread."""
        self._loop.call_soon_threadsafe(self._begin)

    def wait(self) -> _T:
        """Wait for the coroutine; return its value or raise its exception.

        Raises:
            InputError: the loop ended before the coroutine.
            TimeoutError: the coroutine did not end in time.
        """
        self._wait_done()
        if self._error is not None:
            raise self._error
        return cast("_T", self._value)

    def abort(self) -> None:
        """Cancel the coroutine and wait for its end. No effect after the end."""
        if not self._is_done:
            with suppress(RuntimeError):  # the loop has ended, and has cancelled the task
                self._loop.call_soon_threadsafe(self._cancel)
            self._wait_done()

    async def run(self) -> None:
        """Await the coroutine, and keep the outcome for the waiting thread."""
        try:
            async with asyncio.timeout(self._timeout):
                self._value = await self._make()
        except asyncio.CancelledError:
            self._error = make_closed_error()
        except BaseException as error:  # for the waiting thread; the loop continues
            self._error = error
        self._settle()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self.run())
        # A task that is cancelled before its first step does not run.
        self._task.add_done_callback(self._cancel_unless_done)

    def _cancel(self) -> None:
        if self._task is None:  # aborted before schedule() had an effect
            self._cancel_unless_done()
        else:
            self._task.cancel()

    def _cancel_unless_done(self, _task: asyncio.Task[None] | None = None) -> None:
        if not self._is_done:
            self._error = make_closed_error()
            self._settle()

    def _settle(self) -> None:
        self._is_done = True
        self._running.release()

    def _wait_done(self) -> None:
        while not self._is_done:
            self._running.acquire(timeout=_SIGNAL_SECONDS)


def make_closed_error() -> InputError:
    """Return the error for a call of a closed runtime or client."""
    return InputError("the runtime or client has been closed", "Make a new Runtime or Client.")
