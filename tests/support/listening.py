"""Jobs whose output a coroutine function takes, which may wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from slipway._run.output_pump import OutputPump
from slipway_protocol.messages import Phase, Stream

if TYPE_CHECKING:
    from slipway._run.guest import Guest
    from slipway._run.job_report import JobReport
    from slipway._run.job_request import JobRequest
    from slipway._run.output_sink import RunObserver

Listen = Callable[[Phase, Stream, bytes], Awaitable[None]]


def pump_to(listen: Listen, observer: RunObserver | None = None) -> OutputPump:
    """Return a pump that passes output to ``listen``."""

    def on_output(phase: str, stream: str, data: bytes) -> Awaitable[None]:
        return listen(Phase[phase.upper()], Stream[stream.upper()], data)

    return OutputPump(on_output, observer)


async def run_with(guest: Guest, job: JobRequest, listen: Listen) -> JobReport:
    """Run ``job`` in ``guest``, and pass its output to ``listen``."""
    pump = pump_to(listen)
    return await pump.run(guest.run(job, pump))
