"""Blocking reads and writes of standard descriptors, in threads of their own."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class DescriptorWorker:
    """Daemon thread for blocking calls on one descriptor, one at a time.

    A process waits at exit for threads of the loop's executor, but a read of a terminal or a write
    to a stopped pipe may never return. Non-blocking mode is no alternative: the flag would hold for
    all programs with the same terminal.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, daemon=True).start()

    async def call(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` in the thread, and return or raise its outcome."""
        future = self._loop.create_future()
        self._calls.put((function, future))
        return await future

    def _work(self) -> None:
        while True:
            function, future = self._calls.get()
            try:
                outcome = function()
            except OSError as error:
                self._resolve(future, None, error)
            else:
                self._resolve(future, outcome, None)

    def _resolve(self, future: asyncio.Future[Any], value: Any, error: OSError | None) -> None:
        def settle() -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)

        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(settle)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``; blocks until written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
