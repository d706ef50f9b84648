"""What an agent has said of a job, as far as it fits the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slipway_protocol import messages as m

if TYPE_CHECKING:
    from slipway._model.errors import InputError


@dataclass(slots=True)
class PhaseReport:
    """What the agent said of one phase, and the ``limits`` that it was given.

    ``seconds`` is the host's own measure of it.
    """

    done: m.PhaseDone
    limits: m.Limits
    sent: dict[m.Stream, int]
    dropped: dict[m.Stream, int]
    seconds: float


@dataclass(slots=True)
class JobReport:
    """What the agent said of one job. ``failure``: the caller's stdin failed, which ended it."""

    phases: dict[m.Phase, PhaseReport] = field(default_factory=dict)
    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failure: InputError | None = None

    @property
    def succeeded(self) -> bool:
        """Whether all phases ended as they should."""
        return all(told.done.verdict is m.Verdict.OK for told in self.phases.values())
