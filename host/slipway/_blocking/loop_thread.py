"""Event loop in a thread of its own, for callers without an event loop."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from slipway._blocking.loop_call import LoopCall, make_closed_error
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")

# Longest wait at the end of the process for runtimes that were not closed, in seconds.
EXIT_SECONDS = 10.0


class LoopThread:
    """Thread that runs coroutines for other threads, until closed or ``owner`` is garbage.

    The kernel kills a machine when the thread that started it ends; therefore this thread lives
    as long as its machines. It is a daemon thread: the end of the process does not wait for it.
    docs/decisions/loop-thread.md says why this is not a portal of anyio.

    Args:
        owner: object whose calls the thread makes; referenced weakly.
        finish: awaited in the loop at the end.
    """

    def __init__(self, owner: object, finish: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._finish = LoopCall(self._loop, finish)
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="slipway", daemon=True)
        self._thread.start()
        weakref.finalize(owner, self._request_stop).atexit = False
        _running.add(self)

    def call(self, make: Callable[[], Coroutine[Any, Any, _T]], timeout: float | None = None) -> _T:
        """Run the coroutine of ``make`` in the loop, and return its value or raise its exception.

        An interrupt of the wait, such as Ctrl-C, cancels the coroutine and waits for its end.

        Raises:
            InputError: the thread is closed, or the caller runs in an event loop, which this call
                would block.
            TimeoutError: the coroutine has not ended after ``timeout`` seconds.
        """
        return self._wait(LoopCall(self._loop, make, timeout))

    def acquire(
        self,
        make: Callable[[], Coroutine[Any, Any, _T]],
        release: Callable[[_T], Coroutine[Any, Any, None]],
    ) -> _T:
        """Run the coroutine of ``make`` as :meth:`call`, and ``release`` a value that is lost.

        The value is lost if an interrupt arrives when the coroutine has returned already.
        """
        call = LoopCall(self._loop, make)
        with ExitStack() as stack:
            stack.callback(self._release, call, release)
            value = self._wait(call)
            stack.pop_all()
        return value

    def close(self, timeout: float | None = None) -> None:
        """Finish, and wait up to ``timeout`` seconds for the end. Idempotent.

        Raises:
            SlipwayError: raised by ``finish``; only the first call of close() reports it.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                self._request_stop()
        self._thread.join(timeout)
        if first and self._finish.is_done:
            self._finish.wait()

    def _wait(self, call: LoopCall[_T]) -> _T:
        _check_caller()
        with ExitStack() as stack:
            with self._lock:  # the loop begins the call before it is requested to stop
                if self._closed:
                    raise make_closed_error()
                stack.callback(call.abort)
                call.schedule()
            value = call.wait()
            stack.pop_all()
        return value

    def _release(
        self, call: LoopCall[_T], release: Callable[[_T], Coroutine[Any, Any, None]]
    ) -> None:
        if call.has_value:
            self.call(lambda: release(call.wait()))

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve_until_stopped())

    async def _serve_until_stopped(self) -> None:
        await self._stop.wait()
        await self._finish.run()

    def _request_stop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._stop.set)


def _check_caller() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InputError(
        "this would block the event loop that it is called in",
        "Use slipway.AsyncRuntime or slipway.AsyncClient there.",
    )


_running: weakref.WeakSet[LoopThread] = weakref.WeakSet()


@atexit.register
def _close_forgotten() -> None:
    for thread in list(_running):
        with suppress(Exception):
            thread.close(EXIT_SECONDS)
