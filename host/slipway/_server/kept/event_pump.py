"""Conversion of a run's events to the stream that clients read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from slipway._model.events import Output
from slipway._util.errors import HostError, SlipwayError
from slipway._wire.errors import encode_error
from slipway._wire.events import encode_event_and_files
from slipway._wire.fields import encode_line

if TYPE_CHECKING:
    from slipway._model.events import Event
    from slipway._model.execution import AsyncExecution
    from slipway._server.kept.output_log import OutputLog

log = logging.getLogger("slipway.api")


class EventPump:
    """Writer of the events of ``execution`` to ``output``, as fast as ``output`` has room.

    A ``raw`` stream has only the output of the phases. An ``events`` stream has a line for each
    event, and ends with ``ended`` or ``failed``.
    """

    def __init__(self, execution: AsyncExecution, output: OutputLog, stream: str) -> None:
        self._execution = execution
        self._output = output
        self._stream = stream

    async def run(self) -> None:
        """Write all events, and close the stream."""
        try:
            async for event in self._execution:
                await self._write_event(event)
        except SlipwayError as error:
            await self._write_failure(error)
        except Exception:
            log.exception("run %s was lost by a bug", self._execution.id)
            await self._write_failure(
                HostError("the server lost this run", "This is a bug in Slipway.")
            )
        finally:
            self._output.close()

    async def _write_event(self, event: Event) -> None:
        if self._stream == "events":
            for record in encode_event_and_files(event):
                await self._output.append(encode_line(record))
        elif isinstance(event, Output):
            await self._output.append(event.data)

    async def _write_failure(self, error: SlipwayError) -> None:
        if self._stream == "events":
            await self._output.append(encode_line({"type": "failed", **encode_error(error)}))
