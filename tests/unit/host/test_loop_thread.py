"""An event loop in a thread of its own, and what interrupts its callers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from slipway._blocking.loop_thread import LoopThread
from slipway._model.errors import InputError


class Owner:
    """Somebody whose calls are made."""

    async def finish(self) -> None:
        """There is nothing to tidy."""


async def forever() -> None:
    await asyncio.Event().wait()


def test_interrupt_before_the_first_step_is_raised() -> None:
    owner = Owner()
    thread = LoopThread(owner, owner.finish)
    busy, free = threading.Event(), threading.Event()

    def block() -> None:
        busy.set()
        free.wait()

    def interrupt() -> None:
        # The loop goes on when the call has been put behind the block, and its cancelling as well.
        while len(waiting) < before + 1:
            pass
        os.kill(os.getpid(), signal.SIGINT)
        while len(waiting) < before + 2:
            pass
        free.set()

    thread._loop.call_soon_threadsafe(block)
    busy.wait()
    waiting = thread._loop._ready  # type: ignore[attr-defined]
    before = len(waiting)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        thread.call(forever)
    interrupter.join()
    thread.close()


def test_call_after_the_close_is_refused() -> None:
    owner = Owner()
    thread = LoopThread(owner, owner.finish)
    thread.close()

    with pytest.raises(InputError, match="has been closed"):
        thread.call(forever)
