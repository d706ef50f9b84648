"""Progress of a run: events of the steps, and facts for the handle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slipway._model.events import PhaseEnded, PhaseStarted, Started

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._model.events import Event
    from slipway._model.published_ports import PublishedPort
    from slipway._run.job_report import PhaseReport
    from slipway_protocol.messages import Phase


class RunProgress:
    """Observer of a run, which passes an event for each step to ``put``."""

    def __init__(self, put: Callable[[Event], None]) -> None:
        self._put = put
        self.phase: Phase | None = None
        self.has_machine = False
        self.is_job_done = False
        # Set when the agent knows the whole job, or the run is over.
        self.job_started = asyncio.Event()

    def disconnect(self) -> None:
        """Forget the receiver of the events, which holds this object: the run is over."""
        self._put = _drop_event

    def on_booted(self, hypervisor: str, ports: tuple[PublishedPort, ...]) -> None:
        """Put the event that the machine is ready."""
        self.has_machine = True
        self._put(Started(hypervisor, ports))

    def on_phase_started(self, phase: Phase) -> None:
        """Put the event that ``phase`` has started."""
        self.phase = phase
        self.job_started.set()
        self._put(PhaseStarted(phase.name.lower()))

    def on_phase_ended(self, phase: Phase, report: PhaseReport) -> None:
        """Put the event that ``phase`` has ended."""
        from slipway._run.results import build_phase_result

        self.phase = None
        self._put(PhaseEnded(phase.name.lower(), build_phase_result(report)))

    def on_job_done(self) -> None:
        """Note that only the machine is still to be stopped."""
        self.is_job_done = True


def _drop_event(_event: Event) -> None:
    """Drop an event of a run that is over."""
