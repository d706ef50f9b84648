"""Sinks of a job's output, and the observers of its steps.

Output is pushed into a sink without waiting. The agent's credit bounds how much comes: a sink gives
it back for the bytes that its reader has taken, by :meth:`FlowControl.release`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from slipway._model.published_ports import PublishedPort
    from slipway._run.job_report import PhaseReport
    from slipway_protocol.messages import Phase, Stream


class FlowControl(Protocol):
    """Owner of the agent's credit."""

    def release(self, stream: Stream, size: int) -> None:
        """Let the agent send ``size`` more bytes of ``stream``. Never waits."""


class OutputSink(Protocol):
    """Receiver of a job's output."""

    def connect(self, flow: FlowControl) -> None:
        """Remember ``flow``; called before the first output."""

    def put_output(self, phase: Phase, stream: Stream, data: bytes) -> None:
        """Take ``data`` without waiting, and release its credit now or later."""


class JobObserver(Protocol):
    """Observer of a job's phases, each called in its place among the output. No method waits."""

    def on_phase_started(self, phase: Phase) -> None:
        """Note that ``phase`` has started; its output follows."""

    def on_phase_ended(self, phase: Phase, report: PhaseReport) -> None:
        """Note that ``phase`` is over; its output came before."""

    def on_job_done(self) -> None:
        """Note that the agent has reported all of the job."""


class RunObserver(JobObserver, Protocol):
    """Observer of a run: of its machine as well."""

    def on_booted(self, hypervisor: str, ports: tuple[PublishedPort, ...]) -> None:
        """Note that the agent is ready in a machine of ``hypervisor``, with ``ports``."""


class OutputCapture:
    """Sink that keeps all output, by the names of phase and stream."""

    def __init__(self) -> None:
        self.data: dict[tuple[str, str], bytearray] = {}
        self._flow: FlowControl

    def connect(self, flow: FlowControl) -> None:
        """See :meth:`OutputSink.connect`."""
        self._flow = flow

    def put_output(self, phase: Phase, stream: Stream, data: bytes) -> None:
        """Keep ``data``."""
        key = phase.name.lower(), stream.name.lower()
        self.data.setdefault(key, bytearray()).extend(data)
        self._flow.release(stream, len(data))


class OutputTail:
    """Sink that keeps the last ``size`` bytes of both streams together."""

    def __init__(self, size: int) -> None:
        self.data = bytearray()
        self._size = size
        self._flow: FlowControl

    def connect(self, flow: FlowControl) -> None:
        """See :meth:`OutputSink.connect`."""
        self._flow = flow

    def put_output(self, phase: Phase, stream: Stream, data: bytes) -> None:
        """Keep the end of what came."""
        self.data += data
        del self.data[: -self._size]
        self._flow.release(stream, len(data))
