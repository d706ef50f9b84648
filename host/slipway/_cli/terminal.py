"""Terminal input and output of all commands: messages, progress, exit codes, signals."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from slipway._cli.forced_end import force_end
from slipway._cli.screen import paint
from slipway._util.errors import HostError, InputError, SlipwayError
from slipway._util.text import to_plain_lines

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_USAGE = 2
EXIT_MISSING = 123
EXIT_TIMEOUT = 124
EXIT_OURS = 125


class Interrupted(BaseException):
    """Request of a signal to end; a BaseException, to pass through handlers of errors."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def write_line(line: str) -> None:
    """Write a message to stderr, without control characters."""
    write_text(f"slipway: {to_plain_lines(line)}\n")


def print_text(text: str) -> None:
    """Write the result of a command to stdout.

    Raises:
        BrokenPipeError: the reader has closed the pipe.
        HostError: stdout cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"cannot write to stdout: {error.strerror}") from None


def write_text(text: str) -> None:
    """Write a text to stderr; errors are ignored."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _report_error(error: SlipwayError) -> None:
    for word, colour, text in (("error:", "red", error.message), ("hint:", "cyan", error.hint)):
        if text:
            write_text(f"slipway: {paint(word, colour, sys.stderr)} {to_plain_lines(text)}\n")


def run_guarded(command: Callable[[list[str]], int], arguments: list[str]) -> NoReturn:
    """Run ``command`` and exit with its code; tracebacks are shown with --debug only."""
    debug = "--debug" in arguments[: _find_separator(arguments)]
    for number in list_ending_signals():
        signal.signal(number, _raise_interrupted)
    _open_standard_descriptors()
    try:
        code = command(arguments)
    except Interrupted as interruption:
        code = 128 + interruption.number
    except SystemExit as ended:  # argparse, after --help
        code = ended.code if isinstance(ended.code, int) else 0
    except KeyboardInterrupt:  # an event loop restores Python's own handler at its end
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output has closed it, as `head` does; end as a C program would.
        code = 128 + signal.SIGPIPE
    except SlipwayError as error:
        if debug:
            raise
        _report_error(error)
        code = EXIT_USAGE if isinstance(error, InputError) else EXIT_OURS
    except Exception as error:
        if debug:
            raise
        _report_error(
            HostError(
                f"{type(error).__name__}: {error}", "This is a bug in Slipway; run with --debug."
            )
        )
        code = EXIT_OURS
    # Threads may still be blocked on a terminal or pipe, with no work left.
    os._exit(code)


def _open_standard_descriptors() -> None:
    """Open descriptors 0 to 2 if closed, or a socket of ours would get the program's output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    # Python makes no streams for descriptors that were closed at its start.
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _find_separator(arguments: list[str]) -> int:
    return arguments.index("--") if "--" in arguments else len(arguments)


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before the first ``--``, and those after it for the program."""
    at = _find_separator(arguments)
    return arguments[:at], arguments[at + 1 :]


def list_ending_signals() -> list[signal.Signals]:
    """Return the signals that end a command; SIGHUP stays ignored under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignored else [signal.SIGHUP])]


def _raise_interrupted(number: int, _frame: object) -> None:
    force_end(number)
    raise Interrupted(number)
