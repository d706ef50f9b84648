"""Calls that go on: in threads that no end of a process waits for, or whoever is cancelled."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


async def call_in_daemon(function: Callable[[], _T]) -> _T:
    """What ``function`` returns or raises, called in a daemon thread.

    The loop's executor has few threads, and the end of a process waits for them; making an image
    takes minutes, and what is left half made is swept up by whoever comes next. Where the caller
    is cancelled, the call goes on.
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
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, daemon=True, name="slipway-call").start()
    return await future


async def uninterrupted(work: Coroutine[Any, Any, _T]) -> _T:
    """What ``work`` returns or raises; a cancelling of the caller is raised when it has ended."""
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
