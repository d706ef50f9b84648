"""What can go wrong, as one small tree.

::

    SlipwayError
    ├── InputError          your input: nothing was started
    ├── ProgramError        your program: raised only by Result.check(), in slipway._model.result
    ├── HostError           this host: something is missing, or too small
    │   ├── ImageError      an image cannot be made, found or trusted
    │   └── Busy            too much to do: try again later
    └── UnknownOutcome      the machine was lost, or broke the rules: the program may have run

Every error is one sentence in ``message`` and, where there is something to do, one in ``hint``.
"""

from __future__ import annotations

from slipway._util.public import public


@public
class SlipwayError(Exception):
    """The root of the tree."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@public
class InputError(SlipwayError, ValueError):
    """The request cannot be run as it stands; nothing was started."""


@public
class HostError(SlipwayError):
    """This host lacks something that a run needs; nothing of the program has run."""


@public
class ImageError(HostError):
    """An image cannot be made, found or trusted."""


@public
class Busy(HostError):
    """There is no room for another run now; in ``retry_after`` seconds there may be."""

    def __init__(self, message: str, hint: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


@public
class UnknownOutcome(SlipwayError):
    """The machine ended or misbehaved under a job: the program may have run, in part or whole.

    ``stdout`` and ``stderr`` hold what had come until then, unless it was streamed.
    """

    stdout: bytes = b""
    stderr: bytes = b""
