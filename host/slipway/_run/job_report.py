"""Report of the agent on a job, checked against the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipway_protocol import messages as m

if TYPE_CHECKING:
    from slipway._util.errors import InputError


@dataclass(slots=True)
class PhaseReport:
    """Report on one phase, with the ``limits`` that were in force.

    ``sent`` and ``dropped`` are bytes of output; ``seconds`` were measured by the host.
    """

    done: m.PhaseDone
    limits: m.Limits
    sent: dict[m.Stream, int]
    dropped: dict[m.Stream, int]
    seconds: float


@dataclass(slots=True)
class JobReport:
    """Report on one job. ``failure`` is the error of the caller's stdin, if that ended the job."""

    phases: dict[m.Phase, PhaseReport] = field(default_factory=dict)
    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failure: InputError | None = None

    @property
    def succeeded(self) -> bool:
        """True if the verdict of all phases is ``ok``."""
        return all(phase.done.verdict is m.Verdict.OK for phase in self.phases.values())
