"""What a caller gives to a run beside its options: source, language, stdin, key, listener."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from slipway._model.errors import InputError
from slipway._model.options import MAX_SOURCE, read_local_file
from slipway._model.values import convert, make_input_error
from slipway._util.threads import call_in_daemon

Source: TypeAlias = str | bytes | os.PathLike[str]
"""A program's text, or the path of its file; a str is always the text."""
Stdin: TypeAlias = bytes | str | AsyncIterable[bytes] | AsyncIterable[str]
BlockingStdin: TypeAlias = bytes | str | Iterable[bytes] | Iterable[str]
OnOutput: TypeAlias = Callable[[str, str, bytes], Awaitable[object] | None]
_LISTENS = "It is called as on_output(phase, stream, data)."


async def read_source(source: Source) -> bytes:
    """The source's bytes, of its file where it is a path.

    Raises:
        InputError: it is nothing that can be a source, or the file cannot be read.
    """
    if isinstance(source, os.PathLike):
        return await asyncio.to_thread(load_source, source)
    return load_source(source)


def load_source(source: object) -> bytes:
    """As :func:`read_source`, and waits for the file."""
    if isinstance(source, os.PathLike):
        return read_local_file(convert("source", Path, source), MAX_SOURCE, "source")
    if isinstance(source, str | bytes | bytearray | memoryview):
        data: bytes = convert("source", bytes, source)
        return data
    raise make_input_error(
        "source", source, "a program's text, or the Path of its file", "Give a str."
    )


def check_language(language: object, source: object) -> str | None:
    """The name of the language; None where the suffix of ``source`` is to tell it, a path.

    Raises:
        InputError: it is neither named nor to be told.
    """
    if isinstance(language, str) or (language is None and isinstance(source, os.PathLike)):
        return language
    raise make_input_error(
        "language", language, "a name", 'For example "python". The suffix of a Path tells it.'
    )


def open_stdin(stdin: object) -> bytes | AsyncIterator[bytes] | None:
    """What is given as stdin, for a run; None stays None.

    Raises:
        InputError: it is nothing that can be read.
    """
    if stdin is None:
        return None
    if isinstance(stdin, AsyncIterable):
        return _convert_pieces(stdin)
    return _convert_stdin(stdin, "Give bytes, a str, or an asynchronous iterator of them.")


def open_blocking_stdin(stdin: object) -> bytes | AsyncIterator[bytes] | None:
    """As :func:`open_stdin`, for a caller without an event loop, whose iterators may wait."""
    if stdin is None:
        return None
    if isinstance(stdin, Iterable) and not isinstance(stdin, str | bytes | bytearray | memoryview):
        return _convert_pieces(_iterate_in_thread(iter(stdin)))
    return _convert_stdin(stdin, "Give bytes, a str, or an iterable of them.")


async def stream_bytes(data: bytes) -> AsyncIterator[bytes]:
    """``data`` as a stream."""
    if data:
        yield data


def check_listener(on_output: object) -> None:
    """Check that ``on_output`` can be called, if it is there.

    Raises:
        InputError: it cannot.
    """
    if on_output is None:
        return
    if not callable(on_output):
        raise make_input_error("on_output", on_output, "a function", _LISTENS)
    try:
        taken = inspect.signature(on_output)
    except (TypeError, ValueError):  # of what is written in C nothing may be known
        return
    try:
        taken.bind("run", "stdout", b"")
    except TypeError as error:
        raise InputError(f"on_output cannot be called: {error}", _LISTENS) from None


def check_blocking_listener(on_output: object) -> None:
    """As :func:`check_listener`; a coroutine function has no loop here.

    Raises:
        InputError: it cannot be called, or would have to be awaited.
    """
    check_listener(on_output)
    if inspect.iscoroutinefunction(on_output):
        raise InputError(
            "on_output is a coroutine function, and nothing awaits it here",
            "Give a plain function, or use slipway.AsyncRuntime or slipway.AsyncClient.",
        )


async def call_listener(on_output: OnOutput, phase: str, stream: str, data: bytes) -> None:
    """Have ``on_output`` hear of output, and wait for it where it is to be awaited."""
    told = on_output(phase, stream, data)
    if inspect.isawaitable(told):
        await told


def _convert_stdin(stdin: object, hint: str) -> bytes:
    try:
        data: bytes = convert("stdin", bytes, stdin)
    except InputError as error:
        if isinstance(stdin, str | os.PathLike):
            raise
        raise InputError(error.message, hint) from None
    return data


async def _convert_pieces(stdin: AsyncIterable[object]) -> AsyncIterator[bytes]:
    try:
        async for piece in stdin:
            yield convert("a piece of stdin", bytes, piece)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the iterator of stdin raised {type(error).__name__}: {error!s:.200}",
            "The program was ended. The cause is the error's __cause__.",
        ) from error


async def _iterate_in_thread(pieces: Iterator[object]) -> AsyncIterator[object]:
    # Not in the loop's thread: what somebody types is waited for.
    end = object()
    while (piece := await call_in_daemon(lambda: next(pieces, end))) is not end:
        yield piece
