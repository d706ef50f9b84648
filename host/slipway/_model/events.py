"""What is told of a run while it lasts, in this order.

::

    Queued*  Preparing*  Started  (PhaseStarted  Output*  PhaseEnded){0,2}  Ended

Output of stdout and stderr is interleaved as the agent read it. A failure is raised, and no event.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway._model.result import PhaseResult, Result  # noqa: TC001  # types of fields
from slipway._util.public import public


@public
@dataclass(frozen=True, slots=True)
class Queued:
    """The run waits for room; ``position`` others are started before it."""

    position: int


@public
@dataclass(frozen=True, slots=True)
class Preparing:
    """An image is being made; ``detail`` is a line for people."""

    detail: str


@public
@dataclass(frozen=True, slots=True)
class Started:
    """The machine, ``kvm`` or ``qemu``, has booted and its agent is ready."""

    machine: str


@public
@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """``phase``, ``build`` or ``run``, has begun."""

    phase: str


@public
@dataclass(frozen=True, slots=True)
class Output:
    """Bytes written to ``stream``, ``stdout`` or ``stderr``: from 1 byte to 120 KiB."""

    phase: str
    stream: str
    data: bytes


@public
@dataclass(frozen=True, slots=True)
class PhaseEnded:
    """``phase`` is over; ``result`` has the sizes of its output, not the output."""

    phase: str
    result: PhaseResult


@public
@dataclass(frozen=True, slots=True)
class Ended:
    """All is over and the machine is gone; ``result`` has the files, not the output."""

    result: Result


Event = Queued | Preparing | Started | PhaseStarted | Output | PhaseEnded | Ended
