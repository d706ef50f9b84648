"""Events of a run, in this order.

::

    Queued*  Preparing*  Started  (PhaseStarted  Output*  PhaseEnded){0,2}  Ended

Output of stdout and stderr comes in the order in which the agent read it. A failure is an
exception, not an event.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway._model.published_ports import PublishedPort  # noqa: TC001  # type of a field
from slipway._model.result import PhaseResult, Result  # noqa: TC001  # types of fields
from slipway._util.public import public


@public
@dataclass(frozen=True, slots=True)
class Queued:
    """Event: the run waits in the queue behind ``position`` others."""

    position: int


@public
@dataclass(frozen=True, slots=True)
class Preparing:
    """Event: an image is being built; ``detail`` is a line for people."""

    detail: str


@public
@dataclass(frozen=True, slots=True)
class Started:
    """Event: the machine, ``kvm`` or ``qemu``, has booted and its agent is ready.

    ``ports`` are its published ports.
    """

    machine: str
    ports: tuple[PublishedPort, ...] = ()


@public
@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """Event: ``phase``, ``build`` or ``run``, has begun."""

    phase: str


@public
@dataclass(frozen=True, slots=True)
class Output:
    """Event: 1 byte to 120 KiB were written to ``stream``, ``stdout`` or ``stderr``."""

    phase: str
    stream: str
    data: bytes


@public
@dataclass(frozen=True, slots=True)
class PhaseEnded:
    """Event: ``phase`` has ended; ``result`` has the sizes of its output, not the output."""

    phase: str
    result: PhaseResult


@public
@dataclass(frozen=True, slots=True)
class Ended:
    """Event: the run and its machine have ended; ``result`` has the files, not the output."""

    result: Result


Event = Queued | Preparing | Started | PhaseStarted | Output | PhaseEnded | Ended


def find_state(event: Event) -> str | None:
    """Return the state of a run after ``event``; None if it stays as before."""
    match event:
        case Queued():
            return "queued"
        case Preparing():
            return "preparing"
        case Started():
            return "booting"
        case PhaseStarted(phase=phase):
            return "building" if phase == "build" else "running"
        case PhaseEnded(phase="build"):
            return "running"
        case Ended():
            return "ended"
    return None
