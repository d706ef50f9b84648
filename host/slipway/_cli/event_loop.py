"""Event loop of a command, and the signals that end it."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from slipway._cli.forced_end import force_end
from slipway._cli.terminal import Interrupted, list_ending_signals
from slipway._util.errors import SlipwayError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_Value = TypeVar("_Value")


def run_interruptible(main: Callable[[], Any]) -> Any:
    """Run the coroutine of ``main``; a signal cancels it, and ends the process if that hangs.

    Raises:
        Interrupted: a signal was received.
    """
    received: list[int] = []

    async def supervise() -> Any:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main())

        def note_signal(number: int, _frame: object) -> None:
            # Not a handler of the loop, which may be what hangs.
            force_end(number)
            received.append(number)
            loop.call_soon_threadsafe(task.cancel)

        for number in list_ending_signals():
            previous.callback(signal.signal, number, signal.signal(number, note_signal))
        return await task

    try:
        with ExitStack() as previous:
            return asyncio.run(supervise())
    except asyncio.CancelledError:
        if not received:
            raise
        raise Interrupted(received[0]) from None


def start_as_task(function: Callable[[_Value], Awaitable[object]]) -> Callable[[_Value], None]:
    """Return a function that calls ``function`` in a task of its own, and does not wait.

    A SlipwayError is ignored: the run reports it itself.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def call(value: _Value) -> None:
        with suppress(SlipwayError):
            await function(value)

    def start(value: _Value) -> None:
        task = asyncio.ensure_future(call(value))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return start
