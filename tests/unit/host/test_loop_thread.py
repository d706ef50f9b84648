"""An event loop in a thread of its own, and interrupts of its callers."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from contextlib import suppress
from typing import Any

import pytest

from slipway._blocking.loop_thread import LoopThread
from slipway._util.errors import InputError
from support.waiting import LIMIT, block_until


class Owner:
    """Owner of a thread, without anything to finish."""

    async def finish(self) -> None:
        """Do nothing."""


async def wait_for_interrupt() -> None:
    await asyncio.sleep(LIMIT)
    raise AssertionError(f"waited {LIMIT:g} s for this: SIGINT interrupts the call")


async def find_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_interrupt_before_the_first_step_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner()
    thread = LoopThread(owner, owner.finish)
    loop = thread.call(find_loop)
    schedule = loop.call_soon_threadsafe
    busy, free = threading.Event(), threading.Event()
    scheduled = []

    def block() -> None:
        busy.set()
        free.wait(LIMIT)

    def note(*arguments: Any) -> asyncio.Handle:
        handle = schedule(*arguments)
        scheduled.append(handle)
        return handle

    def interrupt() -> None:
        # The loop continues when both the call and its cancellation wait behind the block.
        try:
            block_until(lambda: len(scheduled) == 1, "the call is scheduled")
            os.kill(os.getpid(), signal.SIGINT)
            block_until(lambda: len(scheduled) == 2, "its cancellation is scheduled")
        finally:
            free.set()

    schedule(block)
    assert busy.wait(LIMIT), "the loop has not begun to wait"
    monkeypatch.setattr(loop, "call_soon_threadsafe", note)
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        thread.call(wait_for_interrupt)
    interrupter.join()
    thread.close()


def test_call_after_the_close_is_refused() -> None:
    owner = Owner()
    thread = LoopThread(owner, owner.finish)
    thread.close()

    with pytest.raises(InputError, match="has been closed"):
        thread.call(wait_for_interrupt)


def test_value_that_an_interrupt_would_lose_is_released() -> None:
    owner = Owner()
    thread = LoopThread(owner, owner.finish)
    main = threading.main_thread().ident
    assert main is not None
    released = []

    async def ignore_cancellation() -> str:
        signal.pthread_kill(main, signal.SIGINT)
        with suppress(asyncio.CancelledError):
            await wait_for_interrupt()
        return "run"

    async def release(value: str) -> None:
        released.append(value)

    with pytest.raises(KeyboardInterrupt):
        thread.acquire(ignore_cancellation, release)
    thread.close()

    assert released == ["run"]


def test_interrupt_without_a_value_releases_nothing() -> None:
    owner = Owner()
    thread = LoopThread(owner, owner.finish)
    main = threading.main_thread().ident
    assert main is not None
    released: list[None] = []

    async def wait() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        await wait_for_interrupt()

    async def release(value: None) -> None:
        released.append(value)

    with pytest.raises(KeyboardInterrupt):
        thread.acquire(wait, release)
    thread.close()

    assert released == []


def test_exit_of_a_coroutine_is_raised_in_the_calling_thread_and_not_in_the_loop() -> None:
    owner = Owner()
    thread = LoopThread(owner, owner.finish)

    async def leave() -> None:
        raise SystemExit(3)

    async def answer() -> int:
        return 1

    with pytest.raises(SystemExit):
        thread.call(leave)
    still_alive = thread.call(answer)
    thread.close()

    assert still_alive == 1


def test_call_has_a_copy_of_the_callers_context() -> None:
    owner = Owner()
    thread = LoopThread(owner, owner.finish)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("before")

    async def change() -> str:
        seen = variable.get()
        variable.set("after")
        return seen

    seen = thread.call(change)
    thread.close()

    assert (seen, variable.get()) == ("before", "before")


def test_error_of_the_finish_is_raised_by_the_first_close_only() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    owner = Owner()
    thread = LoopThread(owner, fail)

    with pytest.raises(ZeroDivisionError):
        thread.close()
    thread.close()
