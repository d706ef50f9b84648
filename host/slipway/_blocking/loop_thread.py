"""Event loop in a thread of its own, for callers without an event loop."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from slipway._model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_T = TypeVar("_T")

# Longest wait at the end of the process for runtimes that were not closed, in seconds.
EXIT_SECONDS = 10.0


class LoopThread:
    """Thread that runs coroutines for other threads, until closed or ``owner`` is garbage.

    The kernel kills a machine when the thread that started it ends; therefore this thread lives
    as long as its machines. It is a daemon thread: the end of the process does not wait for it.

    Args:
        owner: object whose calls the thread makes; referenced weakly.
        finish: awaited in the loop at the end.
    """

    def __init__(self, owner: object, finish: Callable[[], Awaitable[None]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ended: Future[None] = Future()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=_serve,
            args=(self._loop, self._stop, finish, self._ended),
            name="slipway",
            daemon=True,
        )
        self._thread.start()
        weakref.finalize(owner, _request_stop, self._loop, self._stop).atexit = False
        _running.add(self)

    def call(self, make: Callable[[], Coroutine[Any, Any, _T]], timeout: float | None = None) -> _T:
        """Run the coroutine of ``make`` in the loop, and return its value or raise its exception.

        An interrupt of the wait, such as Ctrl-C, cancels the coroutine and waits for its end.

        Raises:
            InputError: the thread is closed, or the caller runs in an event loop, which this call
                would block.
            TimeoutError: the coroutine has not ended after ``timeout`` seconds.
        """
        _check_caller()
        outcome: Future[_T] = Future()
        tasks: list[asyncio.Task[None]] = []

        async def work() -> None:
            try:
                async with asyncio.timeout(timeout):
                    value = await make()
            except asyncio.CancelledError:
                outcome.set_exception(_make_closed_error())
            except BaseException as error:
                outcome.set_exception(error)
            else:
                outcome.set_result(value)

        def settle(_task: asyncio.Task[None] | None = None) -> None:
            if not outcome.done():
                outcome.set_exception(_make_closed_error())

        def begin() -> None:
            tasks.append(self._loop.create_task(work()))
            # A task that is cancelled before its first step does not run work().
            tasks[0].add_done_callback(settle)

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # interrupted before begin() ran
                settle()

        is_scheduled = False
        try:
            with self._lock:  # begin() is scheduled before the loop is asked to stop
                if self._closed:
                    raise _make_closed_error()
                is_scheduled = True
                self._loop.call_soon_threadsafe(begin)
            return outcome.result()
        except BaseException:
            if is_scheduled and not outcome.done():
                with suppress(RuntimeError):  # the loop has ended, and has cancelled the task
                    self._loop.call_soon_threadsafe(cancel)
                outcome.exception()
            raise

    def close(self, patience: float | None = None) -> None:
        """Finish, and wait up to ``patience`` seconds for the end. Idempotent.

        Raises:
            SlipwayError: raised by ``finish``; only the first call of close() reports it.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                _request_stop(self._loop, self._stop)
        self._thread.join(patience)
        if first and self._ended.done():
            self._ended.result()


def _serve(
    loop: asyncio.AbstractEventLoop,
    stop: asyncio.Event,
    finish: Callable[[], Awaitable[None]],
    ended: Future[None],
) -> None:
    async def live() -> None:
        await stop.wait()
        await finish()

    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(live())
    except BaseException as error:
        ended.set_exception(error)
    else:
        ended.set_result(None)


def _request_stop(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(stop.set)


def _check_caller() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InputError(
        "this would block the event loop that it is called in",
        "Use slipway.AsyncRuntime or slipway.AsyncClient there.",
    )


def _make_closed_error() -> InputError:
    return InputError("it has been closed", "Make a new Runtime or Client.")


_running: weakref.WeakSet[LoopThread] = weakref.WeakSet()


@atexit.register
def _close_forgotten() -> None:
    for thread in list(_running):
        with suppress(Exception):
            thread.close(EXIT_SECONDS)
