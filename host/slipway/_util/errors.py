"""Errors: one small tree of exceptions.

::

    SlipwayError
    ├── InputError          invalid input; nothing was started
    ├── ProgramError        the program failed; raised by Result.check() only
    ├── HostError           a part of this host is missing, or too small
    │   ├── NoAnswer        a process of this host, or a guest, did not answer in time
    │   ├── ImageError      an image cannot be built, found or trusted
    │   └── Busy            too many runs: try again later
    └── UnknownOutcome      the machine was lost; the program may have run

``message`` is one sentence about the error; ``hint`` says how to correct it, or is empty.
"""

from __future__ import annotations

from slipway._util.public import public


@public
class SlipwayError(Exception):
    """Base class of all errors of Slipway.

    ``message`` is one sentence about the error; ``hint`` says how to correct it, or is empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@public
class InputError(SlipwayError, ValueError):
    """Error in the request; nothing was started."""


@public
class HostError(SlipwayError):
    """Error of this host: a required part is missing. The program has not run."""


class NoAnswer(HostError):
    """Lack of an answer in time: the host is slow, or a peer hangs."""


@public
class ImageError(HostError):
    """Error of an image: build, search or check failed."""


@public
class Busy(HostError):
    """Refusal of a run because the queue is full; try again in ``retry_after`` seconds."""

    def __init__(self, message: str, hint: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


@public
class UnknownOutcome(SlipwayError):
    """Loss of the machine under a job: the program may have run in part or whole.

    ``stdout`` and ``stderr`` hold the output until then, unless it was streamed.
    """

    stdout: bytes = b""
    stderr: bytes = b""


def drop_tracebacks(error: BaseException) -> None:
    """Remove the tracebacks of ``error`` and of its causes: their frames hold all that they saw.

    For an error that is kept, whose chain stays readable.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            waiting += (each.__cause__, each.__context__)
