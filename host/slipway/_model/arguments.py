"""Arguments of a run besides its options: source, language, stdin, listener."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from slipway._model.options import MAX_SOURCE, Options, read_local_file
from slipway._model.values import convert, make_input_error
from slipway._util.errors import InputError
from slipway._util.threads import run_in_daemon_thread

# Text of a program, or the path of its file; a str is always a text.
Source: TypeAlias = str | bytes | os.PathLike[str]
Stdin: TypeAlias = bytes | str | AsyncIterable[bytes] | AsyncIterable[str]
BlockingStdin: TypeAlias = bytes | str | Iterable[bytes] | Iterable[str]
OnOutput: TypeAlias = Callable[[str, str, bytes], Awaitable[object] | None]
_LISTENER_HINT = "Calls have the form on_output(phase, stream, data)."


async def read_source(source: Source) -> bytes:
    """Return the bytes of a source; a path is read in a thread.

    Raises:
        InputError: the source is of another type, or the file cannot be read.
    """
    if isinstance(source, os.PathLike):
        return await asyncio.to_thread(load_source, source)
    return load_source(source)


def load_source(source: object) -> bytes:
    """Return the bytes of a source as :func:`read_source`; blocks while the file is read."""
    if isinstance(source, os.PathLike):
        return read_local_file(convert("source", Path, source), MAX_SOURCE, "source")
    if isinstance(source, str | bytes | bytearray | memoryview):
        data: bytes = convert("source", bytes, source)
        return data
    raise make_input_error(
        "source", source, "a program's text, or the Path of its file", "Pass a str."
    )


def check_language(language: object, source: object) -> str | None:
    """Return the name of the language, or None to use the suffix of ``source``, a path.

    Raises:
        InputError: the language is missing, and ``source`` is not a path.
    """
    if isinstance(language, str) or (language is None and isinstance(source, os.PathLike)):
        return language
    raise make_input_error(
        "language",
        language,
        "a name",
        'For example "python". Only a source that is a Path needs no language.',
    )


def open_stdin(stdin: object) -> bytes | AsyncIterator[bytes] | None:
    """Return stdin as bytes or as an asynchronous iterator of bytes; None stays None.

    Raises:
        InputError: stdin is of another type.
    """
    if stdin is None:
        return None
    if isinstance(stdin, AsyncIterable):
        return _convert_pieces(stdin)
    return _convert_stdin(stdin, "Pass bytes, a str, or an asynchronous iterator of them.")


def open_blocking_stdin(stdin: object) -> bytes | AsyncIterator[bytes] | None:
    """Open stdin of a caller without an event loop; iterators may block."""
    if stdin is None:
        return None
    if isinstance(stdin, Iterable) and not isinstance(stdin, str | bytes | bytearray | memoryview):
        return _convert_pieces(_iterate_in_thread(iter(stdin)))
    return _convert_stdin(stdin, "Pass bytes, a str, or an iterable of them.")


async def stream_bytes(data: bytes) -> AsyncIterator[bytes]:
    """Yield ``data`` as one piece, unless empty."""
    if data:
        yield data


def open_input(data: bytes, options: Options) -> AsyncIterator[bytes] | None:
    """Return the stdin of a job whose whole input is ``data``.

    An empty stdin is None, which needs no message to the agent. But a terminal needs its end.
    """
    return stream_bytes(data) if data or options.tty else None


def check_listener(on_output: object) -> None:
    """Check that ``on_output`` is None or can be called.

    Raises:
        InputError: the argument is not callable, or takes other arguments.
    """
    if on_output is None:
        return
    if not callable(on_output):
        raise make_input_error("on_output", on_output, "a function", _LISTENER_HINT)
    try:
        signature = inspect.signature(on_output)
    except (TypeError, ValueError):  # functions in C may have no signature
        return
    try:
        signature.bind("run", "stdout", b"")
    except TypeError as error:
        raise InputError(f"on_output cannot be called: {error}", _LISTENER_HINT) from None


def check_blocking_listener(on_output: object) -> None:
    """Check ``on_output`` as :func:`check_listener`, and that no await is needed.

    Raises:
        InputError: the argument is not callable, or is a coroutine function.
    """
    check_listener(on_output)
    if inspect.iscoroutinefunction(on_output):
        raise InputError(
            "on_output is a coroutine function, which a blocking call cannot await",
            "Pass a plain function, or use slipway.AsyncRuntime or slipway.AsyncClient.",
        )


async def call_listener(on_output: OnOutput, phase: str, stream: str, data: bytes) -> None:
    """Call ``on_output`` with output, and await the result if possible."""
    result = on_output(phase, stream, data)
    if inspect.isawaitable(result):
        await result


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
            "The program was ended. See __cause__ of this error.",
        ) from error


async def _iterate_in_thread(pieces: Iterator[object]) -> AsyncIterator[object]:
    # In a thread, because the iterator may wait for a person's input.
    end = object()
    while (piece := await run_in_daemon_thread(lambda: next(pieces, end))) is not end:
        yield piece
