"""Waits of tests, each with a limit, and a sentence for the reader of a failure."""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import time
from typing import IO, TYPE_CHECKING, Any, TypeVar, overload

from support.clock import find_jumping_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")

# Seconds. A loaded host is slow; only a test that fails waits so long.
LIMIT = 120.0
_LONGEST_PAUSE = 0.01


@overload
async def wait_until(
    condition: Callable[[], Coroutine[Any, Any, _T]], sentence: str, limit: float = LIMIT
) -> _T: ...


@overload
async def wait_until(condition: Callable[[], _T], sentence: str, limit: float = LIMIT) -> _T: ...


async def wait_until(condition: Callable[[], Any], sentence: str, limit: float = LIMIT) -> Any:
    """Wait until ``condition`` returns, or its coroutine gives, something true; return that.

    A :class:`JumpingClock` jumps only between two looks at the condition.

    ``sentence`` says the condition as a fact: "the pool has two clones".

    Raises:
        AssertionError: the condition was false for ``limit`` seconds.
    """
    clock = find_jumping_clock()
    end = time.monotonic() + limit
    pause = 0.0
    while True:
        value = condition()
        if inspect.iscoroutine(value):
            value = await value
        if value:
            return value
        _check_limit(end, limit, sentence)
        if clock is not None:
            await clock.idle()
        else:
            await asyncio.sleep(pause)
            pause = min(pause + 0.001, _LONGEST_PAUSE)


def block_until(condition: Callable[[], _T | None], sentence: str, limit: float = LIMIT) -> _T:
    """Block this thread until ``condition`` returns something true; return that.

    Raises:
        AssertionError: the condition was false for ``limit`` seconds.
    """
    end = time.monotonic() + limit
    pause = 0.0
    while not (value := condition()):
        _check_limit(end, limit, sentence)
        time.sleep(pause)
        pause = min(pause + 0.001, _LONGEST_PAUSE)
    return value


def read_until(stream: IO[bytes], text: bytes, sentence: str, limit: float = LIMIT) -> bytes:
    """Read from a pipe of a process until ``text`` has come; return all that was read.

    The stream's own buffer is bypassed, as by ``Popen.communicate()``.

    Raises:
        AssertionError: the pipe has ended, or ``text`` did not come within ``limit`` seconds.
    """
    end = time.monotonic() + limit
    data = b""
    while text not in data:
        _check_limit(end, limit, f"{sentence}; read {data!r}")
        ready, _, _ = select.select([stream], [], [], end - time.monotonic())
        if ready:
            piece = os.read(stream.fileno(), 65536)
            assert piece, f"the process ended before this: {sentence}; read {data!r}"
            data += piece
    return data


def _check_limit(end: float, limit: float, sentence: str) -> None:
    if time.monotonic() > end:
        raise AssertionError(f"waited {limit:g} s for this: {sentence}")
