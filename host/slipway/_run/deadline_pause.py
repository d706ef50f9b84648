"""Pause of a job's deadline while its output waits for a reader."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from slipway._run.output_sink import FlowControl, OutputSink
    from slipway_protocol.messages import Phase, Stream


# Seconds of delay that are the host's own, between a piece's arrival and its reader's turn. They
# do not stretch the deadline: an agent that sends many small pieces would live on them.
_OWN_DELAY = 0.1


class DeadlinePause:
    """Sink that stops ``deadline`` while ``sink`` withholds credit.

    A pager may keep the end of the output waiting for hours. That says nothing about the agent,
    which counts the program's time by itself. Leave the context before the deadline's.
    """

    def __init__(self, sink: OutputSink, deadline: asyncio.Timeout) -> None:
        self._sink = sink
        self._deadline = deadline
        self._clock = asyncio.get_running_loop().time
        self._flow: FlowControl
        self._withheld = 0  # bytes whose credit is not released
        self._when: float | None = None  # the deadline while it is stopped
        self._stopped_at = 0.0
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True

    def connect(self, flow: FlowControl) -> None:
        """Stand between the sink and ``flow``."""
        self._flow = flow
        self._sink.connect(self)

    def put_output(self, phase: Phase, stream: Stream, data: bytes) -> None:
        """Pass output on; stop the deadline if the sink keeps its credit."""
        self._withheld += len(data)
        self._sink.put_output(phase, stream, data)
        if self._withheld and self._when is None and not self._is_over:
            when = self._deadline.when()
            if when is not None and not self._deadline.expired():
                self._when = when
                self._stopped_at = self._clock()
                self._deadline.reschedule(None)

    def release(self, stream: Stream, size: int) -> None:
        """Pass credit on; let the deadline go on when the sink keeps no credit any more."""
        self._withheld -= size
        if not self._withheld and self._when is not None and not self._is_over:
            if not self._deadline.expired():
                pause = self._clock() - self._stopped_at
                self._deadline.reschedule(self._when + (pause if pause > _OWN_DELAY else 0))
            self._when = None
        self._flow.release(stream, size)
