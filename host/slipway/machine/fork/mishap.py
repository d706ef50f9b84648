"""Failures of one fork that say nothing about the next."""

from __future__ import annotations

import errno
import os

from slipway._util.errors import HostError

# The host lacks room at the moment, or the process has ended.
_MOMENTARY = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESRCH, errno.ENOENT}
)


class Mishap(Exception):
    """Lack of time or room, or the end of a process: another fork may succeed.

    A HostError of this package is a refusal: it would come again.
    """


class Lateness(Mishap):
    """Lack of time in the middle of a step: the state of the original is unknown after that."""


def build_failure(text: str, number: int | None) -> Exception:
    """Return the error of a call that has failed with the error ``number``: Mishap or HostError."""
    message = f"{text}: {os.strerror(number or 0)}"
    return Mishap(message) if number in _MOMENTARY else HostError(message)
