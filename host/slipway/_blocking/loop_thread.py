"""An event loop in a thread of its own, for callers that have none."""

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

# Seconds that the end of a process waits for what somebody forgot to close.
EXIT_SECONDS = 10.0


class LoopThread:
    """Runs coroutines for other threads until it is closed, or ``owner`` is garbage.

    The kernel kills a machine with the thread that started it, so this one lives as long as they
    may. It is a daemon: no end of a process waits for it for ever.

    Args:
        owner: whose calls it makes; it is not kept alive from here.
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
        weakref.finalize(owner, _ask, self._loop, self._stop).atexit = False
        _running.add(self)

    def call(self, make: Callable[[], Coroutine[Any, Any, _T]], timeout: float | None = None) -> _T:
        """What the coroutine that ``make`` makes returns or raises in the loop.

        What interrupts the waiting, such as Ctrl-C, cancels it and waits for its end.

        Raises:
            InputError: this is closed, or the caller has an event loop, which would stand still.
            TimeoutError: it has not ended after ``timeout`` seconds.
        """
        _check_caller()
        outcome: Future[_T] = Future()
        tasks: list[asyncio.Task[None]] = []

        async def work() -> None:
            try:
                async with asyncio.timeout(timeout):
                    value = await make()
            except asyncio.CancelledError:
                outcome.set_exception(_closed())
            except BaseException as error:
                outcome.set_exception(error)
            else:
                outcome.set_result(value)

        def settle(_task: asyncio.Task[None] | None = None) -> None:
            if not outcome.done():
                outcome.set_exception(_closed())

        def begin() -> None:
            tasks.append(self._loop.create_task(work()))
            # One that is cancelled before its first step has no steps, and settles nothing.
            tasks[0].add_done_callback(settle)

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # interrupted before it was begun
                settle()

        asked = False
        try:
            with self._lock:  # so that what is begun is begun before the loop is asked to stop
                if self._closed:
                    raise _closed()
                asked = True
                self._loop.call_soon_threadsafe(begin)
            return outcome.result()
        except BaseException:
            if asked and not outcome.done():
                with suppress(RuntimeError):  # the loop has ended, and cancelled it
                    self._loop.call_soon_threadsafe(cancel)
                outcome.exception()
            raise

    def close(self, patience: float | None = None) -> None:
        """Finish, and wait for it up to ``patience`` seconds; may be called again.

        Raises:
            SlipwayError: what the finish raised, to the first who closes.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            if first:
                _ask(self._loop, self._stop)
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


def _ask(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with suppress(RuntimeError):  # it has been closed
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


def _closed() -> InputError:
    return InputError("it has been closed", "Make a new Runtime or Client.")


_running: weakref.WeakSet[LoopThread] = weakref.WeakSet()


@atexit.register
def _close_forgotten() -> None:
    for thread in list(_running):
        with suppress(Exception):
            thread.close(EXIT_SECONDS)
