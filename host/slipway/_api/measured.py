"""A run whose end is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._errors import SlipwayError
from slipway._events import Ended
from slipway._execution import AsyncExecution

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipway._api.metrics import Metrics
    from slipway._events import Event


class MeasuredExecution(AsyncExecution):
    """``execution``, whose end is told to ``metrics`` when somebody takes it.

    ``on_end`` is called at its end or cancellation, perhaps at both.
    """

    def __init__(
        self, execution: AsyncExecution, metrics: Metrics, on_end: Callable[[], None]
    ) -> None:
        super().__init__(execution.id, execution.language)
        self._execution = execution
        self._metrics = metrics
        self._on_end = on_end

    @property
    def state(self) -> str:
        """See :attr:`AsyncExecution.state`."""
        return self._execution.state

    @property
    def position(self) -> int | None:
        """See :attr:`AsyncExecution.position`."""
        return self._execution.position

    async def signal(self, number: int) -> None:
        """See :meth:`AsyncExecution.signal`."""
        await self._execution.signal(number)

    async def cancel(self) -> None:
        """See :meth:`AsyncExecution.cancel`."""
        await self._execution.cancel()
        self._on_end()

    async def _next(self) -> Event:
        try:
            event = await self._execution.__anext__()
        except SlipwayError as error:
            self._metrics.failed(self.language, error)
            self._on_end()
            raise
        if isinstance(event, Ended):
            self._metrics.ended(event.result)
            self._on_end()
        return event

    async def _write(self, data: bytes) -> None:
        await self._execution.stdin.write(data)

    async def _end_input(self) -> None:
        await self._execution.stdin.close()
