"""What every verb shares: errors for people, progress, exit codes, and pumps for fds 0 to 2."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from slipway._cli.screen import bar, is_screen, paint, width_of
from slipway._model.errors import HostError, InputError, SlipwayError
from slipway._util.text import plain, plain_lines

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_USAGE = 2
EXIT_MISSING = 123
EXIT_TIMEOUT = 124
EXIT_OURS = 125


class Interrupted(BaseException):
    """A signal asked us to end; a BaseException, so that no handler of errors keeps it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def show(text: str) -> None:
    """Text for the person at the terminal."""
    _write(text)


def say(line: str) -> None:
    """One line for the person at the terminal; names of files in it may be anybody's."""
    _write(f"slipway: {plain_lines(line)}\n")


def emit(text: str) -> None:
    """What was asked for, to stdout.

    Raises:
        BrokenPipeError: nobody reads it any more.
        HostError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"cannot write to stdout: {error.strerror}") from None


class Progress:
    """Shows what takes long: on a terminal in one line that changes, elsewhere now and then.

    Elsewhere each new kind of step is shown, told by its first word, and of one kind a line each
    second: a log of a build is to be read, and to grow while something happens.
    """

    def __init__(self) -> None:
        self._terminal = is_screen(sys.stderr)
        self._shown_at = 0.0
        self._kind = ""
        self._pending = False

    def __call__(self, line: str) -> None:
        """Show ``line``."""
        kind, now = line.partition(" ")[0], time.monotonic()
        if self._terminal:
            # Of a line that wraps only its last part would be overwritten.
            _write(f"\r\x1b[K{bar(plain(line), width_of(sys.stderr) - 1)}")
            self._pending = True
        elif kind != self._kind or now - self._shown_at >= 1:
            self._kind, self._shown_at = kind, now
            say(line)

    def done(self) -> None:
        """Remove what is shown of the last step."""
        if self._pending:
            _write("\r\x1b[K")
            self._pending = False


def _write(text: str) -> None:
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _complain(error: SlipwayError) -> None:
    for word, colour, text in (("error:", "red", error.message), ("hint:", "cyan", error.hint)):
        if text:
            _write(f"slipway: {paint(word, colour, sys.stderr)} {plain_lines(text)}\n")


def guarded(command: Callable[[list[str]], int], arguments: list[str]) -> NoReturn:
    """Run ``command`` and exit with its code; no traceback reaches a person without --debug."""
    debug = "--debug" in arguments[: _separator(arguments)]
    for number in _ending_signals():
        signal.signal(number, _interrupt)
    _hold_standard_descriptors()
    try:
        code = command(arguments)
    except Interrupted as interruption:
        code = 128 + interruption.number
    except SystemExit as ended:  # argparse, after its help
        code = ended.code if isinstance(ended.code, int) else 0
    except KeyboardInterrupt:  # an event loop that ends sets Python's own handler again
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; end as a program of C would.
        code = 128 + signal.SIGPIPE
    except SlipwayError as error:
        if debug:
            raise
        _complain(error)
        code = EXIT_USAGE if isinstance(error, InputError) else EXIT_OURS
    except Exception as error:
        if debug:
            raise
        _complain(
            HostError(
                f"{type(error).__name__}: {error}", "This is a bug of ours. --debug shows where."
            )
        )
        code = EXIT_OURS
    # Threads may still wait for a terminal or a pipe; nothing of ours is left for them to do.
    os._exit(code)


def _hold_standard_descriptors() -> None:
    """Make 0, 1 and 2 exist: a socket of ours in their place would get the program's output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    # Python has no streams for descriptors that were closed when it started.
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _separator(arguments: list[str]) -> int:
    return arguments.index("--") if "--" in arguments else len(arguments)


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before the first ``--`` is ours, what stands after it the program's."""
    at = _separator(arguments)
    return arguments[:at], arguments[at + 1 :]


def _ending_signals() -> list[signal.Signals]:
    """The signals that ask us to end; nohup has SIGHUP ignored, and means it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


def _interrupt(number: int, _frame: object) -> None:
    raise Interrupted(number)


def run_interruptible(main: Callable[[], Any]) -> Any:
    """Run the coroutine that ``main`` makes; a signal cancels it and waits for its clean end.

    Raises:
        Interrupted: a signal came.
    """
    received: list[int] = []

    async def supervise() -> Any:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main())

        def cancel(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in _ending_signals():
            loop.add_signal_handler(number, cancel, number)
        return await task

    try:
        return asyncio.run(supervise())
    except asyncio.CancelledError:
        if not received:
            raise
        raise Interrupted(received[0]) from None


class DescriptorWorker:
    """Makes blocking calls on one descriptor in a daemon thread, one at a time.

    Not the loop's executor, whose threads a process waits for at its end: a read of a terminal or a
    write to a stopped pipe may never return. Not non-blocking mode either: that would be set on the
    caller's terminal, for every program that has it open.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, daemon=True).start()

    async def call(self, function: Callable[[], Any]) -> Any:
        """What ``function`` returns or raises."""
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

        with suppress(RuntimeError):  # the loop has ended, and nobody waits any more
            self._loop.call_soon_threadsafe(settle)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, however long it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
