"""Pump of a job's output into a callback that may wait."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from slipway._model.arguments import call_listener
from slipway._run.output_queue import OutputQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from slipway._model.arguments import OnOutput
    from slipway._model.published_ports import PublishedPort
    from slipway._run.job_report import PhaseReport
    from slipway._run.output_sink import FlowControl, RunObserver
    from slipway_protocol.messages import Phase, Stream

    Queue = OutputQueue[Callable[[], None]]

_T = TypeVar("_T")


class _CallbackCancelled(Exception):
    """End of a callback by CancelledError while nobody cancelled its task."""


class OutputPump:
    """Sink and observer of a job, which passes all on to ``on_output`` and ``observer``.

    Without an observer each stream has a queue and a task: a reader that is slow on stdout delays
    neither stderr nor the agent. With an observer both streams share one, which keeps the order.
    """

    def __init__(self, on_output: OnOutput, observer: RunObserver | None = None) -> None:
        self._on_output = on_output
        self._observer = observer
        self._queues: dict[str, Queue] = {}

    def connect(self, flow: FlowControl) -> None:
        """See :meth:`slipway._run.output_sink.OutputSink.connect`."""
        for queue in self._queues.values():
            queue.connect(flow)

    def put_output(self, phase: Phase, stream: Stream, data: bytes) -> None:
        """Add output for the callback."""
        self._queues[stream.name].put_output(phase, stream, data)

    def on_booted(self, hypervisor: str, ports: tuple[PublishedPort, ...]) -> None:
        """Report the hypervisor at once."""
        if self._observer is not None:
            self._observer.on_booted(hypervisor, ports)

    def on_phase_started(self, phase: Phase) -> None:
        """Report the start of ``phase`` behind all output that came before."""
        if self._observer is not None:
            self._put(partial(self._observer.on_phase_started, phase))

    def on_phase_ended(self, phase: Phase, report: PhaseReport) -> None:
        """Report the end of ``phase`` behind its output."""
        if self._observer is not None:
            self._put(partial(self._observer.on_phase_ended, phase, report))

    def on_job_done(self) -> None:
        """Report the end of the job at once, while output may still wait."""
        if self._observer is not None:
            self._observer.on_job_done()

    async def run(self, job: Coroutine[Any, Any, _T]) -> _T:
        """Run ``job``, whose output comes here; return its result when all has been passed on.

        Raises:
            BaseException: the error of the job or of the callback, the first of them.
        """
        shared: Queue = OutputQueue()
        both = self._observer is not None
        self._queues = {"STDOUT": shared, "STDERR": shared if both else OutputQueue()}
        try:
            async with asyncio.TaskGroup() as tasks:
                queues = set(self._queues.values())
                for queue in queues:
                    tasks.create_task(self._pass_on(queue))
                result = await job
                for queue in queues:
                    queue.close()
        except BaseExceptionGroup as group:
            # Job and callbacks are cancelled together; the first to fail says why.
            first = group.exceptions[0]
            if isinstance(first, _CallbackCancelled):
                first = asyncio.CancelledError()
            raise first from None
        return result

    def _put(self, call: Callable[[], None]) -> None:
        self._queues["STDOUT"].put(call)

    async def _pass_on(self, queue: Queue) -> None:
        while (item := await queue.take()) is not None:
            if isinstance(item, tuple):
                phase, stream, data = item
                await self._call(phase, stream, data)
            else:
                item()

    async def _call(self, phase: Phase, stream: Stream, data: bytes) -> None:
        try:
            await call_listener(self._on_output, phase.name.lower(), stream.name.lower(), data)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if task.cancelling():
                raise
            # A group ignores a task that ends so: the job would go on, and its output be lost.
            raise _CallbackCancelled from None
