"""Trial of a jail: which of its parts this host refuses."""

from __future__ import annotations

import errno
import os
import sys

from slipway.jail.part import JailRefusal, Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway.jail.jail import Jail

_REPORT_BYTES = 4096


def find_refusals(make: Callable[[dict[Part, str]], Jail]) -> dict[Part, str]:
    """Return the parts that this host refuses, with its reasons.

    ``make`` returns a jail without the given parts. Children of this process, which has one thread,
    enter it until one gets all that is left, and end at once.

    Raises:
        JailRefusal: the host lacks room at the moment.
    """
    refused: dict[Part, str] = {}
    while True:  # each turn but the last adds a part
        jail = make(refused)
        try:
            refusal = _try(jail)
        finally:
            jail.close()
        if refusal is None:
            return refused
        if refusal.is_momentary or refusal.part in refused:
            raise refusal
        refused[refusal.part] = refusal.reason


def _try(jail: Jail) -> JailRefusal | None:
    """Have a child enter ``jail``; return the refusal of a part, if any."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            process = jail.fork()
        except JailRefusal as refusal:
            return refusal
        if not process:
            _enter_and_end(jail, writer)
    finally:
        os.close(writer)
    try:
        with open(reader, "rb") as report:
            words = report.read(_REPORT_BYTES).decode().split("\n")
    finally:
        _, status = os.waitpid(process, 0)
    if status == 0:
        return None
    if len(words) != 2:
        raise JailRefusal(
            Part.PID_NAMESPACE, OSError(errno.ECHILD, "the trial of a jail has ended")
        )
    return JailRefusal(Part[words[0]], OSError(int(words[1]), os.strerror(int(words[1]))))


def _enter_and_end(jail: Jail, report: int) -> None:
    status = 1
    try:
        jail.enter()
        jail.seal()
        status = 0
    except JailRefusal as refusal:
        os.write(report, f"{refusal.part.name}\n{refusal.number}".encode())
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
