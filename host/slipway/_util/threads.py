"""Calls that continue when the caller is cancelled, in daemon threads or tasks."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


async def run_in_daemon_thread(function: Callable[[], _T]) -> _T:
    """Call ``function`` in a daemon thread, and return or raise its outcome.

    Unlike threads of the loop's executor, a process does not wait for daemon threads at its exit. A
    build of an image takes minutes, and the next process removes the remains of an unfinished one.
    If the caller is cancelled, the call continues.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(value: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]

    def work() -> None:
        value, error = None, None
        try:
            value = function()
        except BaseException as raised:  # passed on to the caller in the loop
            error = raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, daemon=True, name="slipway-call").start()
    return await future


async def run_shielded(work: Coroutine[Any, Any, _T]) -> _T:
    """Await ``work`` to its end; a cancellation of the caller is raised after that."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:
            break  # raised below, with the task
    if cancelled is not None:
        task.exception()
        raise cancelled
    return task.result()


async def call_shielded(function: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Call ``function`` and await it to its end: a callback of an exit stack."""
    return await run_shielded(function())


async def run_until(work: Coroutine[Any, Any, object], event: asyncio.Event) -> None:
    """Await ``work``, and raise its error; cancel it when ``event`` is set."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
