"""Handle of a run under way, the same for runs in this process and on a server."""

from __future__ import annotations

import abc
from copy import copy
from typing import TYPE_CHECKING, Self

from slipway._model.arguments import call_listener
from slipway._model.events import (
    Ended,
    Output,
    Preparing,
    Queued,
    Started,
    find_state,
)
from slipway._model.values import convert, describe_value
from slipway._util.errors import InputError, SlipwayError, UnknownOutcome
from slipway._util.public import public

if TYPE_CHECKING:
    from types import TracebackType

    from slipway._model.arguments import OnOutput
    from slipway._model.events import Event
    from slipway._model.published_ports import PublishedPort
    from slipway._model.result import OutputFile, Result


# The last real-time signal: signal(7).
MAX_SIGNAL = 64


def check_signal(number: object) -> None:
    """Check that ``number`` is a signal.

    Raises:
        InputError: the number is invalid.
    """
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_SIGNAL:
        raise InputError(
            f"invalid signal {describe_value(number)}",
            f"Signals are 1 to {MAX_SIGNAL}, for example signal.SIGINT.",
        )


@public
class AsyncStdin:
    """Standard input of a program that was started with ``stdin=None``."""

    def __init__(self, execution: AsyncExecution) -> None:
        self._execution = execution

    async def write(self, data: bytes | str) -> None:
        """Write ``data`` to the program; waits while the program does not read.

        Data after the end of the program is dropped.

        Raises:
            InputError: stdin was given with the run, or has been closed.
        """
        if octets := convert("data", bytes, data):
            await self._execution._write(octets)

    async def close(self) -> None:
        """Send end of file; a second call has no effect."""
        await self._execution._end_input()


@public
class AsyncExecution(abc.ABC):
    """Handle of a run under way, and asynchronous iterator over its events.

    About 1 MiB of output is kept for the reader of the events; then the program waits. As a context
    manager, the handle cancels the run at the end of the block.
    """

    def __init__(self, identifier: str, language: str) -> None:
        self.id = identifier
        self.language = language
        self._state = "queued"
        self._position: int | None = None
        self._ports: tuple[PublishedPort, ...] = ()
        self._captured: dict[tuple[str, str], bytearray] = {}
        self._result: Result | None = None
        self._failure: SlipwayError | None = None
        self._is_read = False

    @property
    def stdin(self) -> AsyncStdin:
        """Standard input of the program."""
        # Made at each use: a stdin that is kept would make a cycle, and with it garbage of the
        # handle and its result, until Python's collector comes by.
        return AsyncStdin(self)

    @property
    def state(self) -> str:
        """State: queued, preparing, booting, building, running or ended."""
        return self._state

    @property
    def position(self) -> int | None:
        """Number of runs before this one in the queue, or None."""
        return self._position

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """Published ports of the machine; empty before the event ``Started``."""
        return self._ports

    @property
    def outcome(self) -> Result | SlipwayError | None:
        """Result or error of the run; None before its end."""
        return self._result or self._failure

    @property
    def pending_bytes(self) -> int:
        """Bytes of output and files that the reader of the events has not taken."""
        return 0

    @abc.abstractmethod
    async def signal(self, number: int) -> None:
        """Send signal ``number`` to the program of the phase that runs.

        Raises:
            InputError: no phase runs, or the signal is invalid.
            UnknownOutcome: the machine was lost.
        """

    @abc.abstractmethod
    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of the program's terminal, which sends SIGWINCH; no effect after the end.

        Raises:
            InputError: the program has no terminal, or the size is invalid.
            UnknownOutcome: the machine was lost.
        """

    @abc.abstractmethod
    async def cancel(self) -> None:
        """End the run with the verdict ``cancelled``, and wait until its machine has ended.

        No effect after the end of the run.
        """

    @abc.abstractmethod
    async def _next(self) -> Event:
        """Return the next event.

        Raises:
            StopAsyncIteration: there are no more events.
            SlipwayError: the run failed.
        """

    @abc.abstractmethod
    async def _write(self, data: bytes) -> None:
        """Write to stdin."""

    @abc.abstractmethod
    async def _end_input(self) -> None:
        """End stdin."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._result is not None:
            raise StopAsyncIteration
        if self._failure is not None:
            raise copy(self._failure)
        if self._is_read:
            raise InputError(
                "two tasks read the events of one run",
                "Iterate, or call wait(), in one task only.",
            )
        self._is_read = True
        try:
            event = await self._next()
        except SlipwayError as error:
            if isinstance(error, UnknownOutcome):
                error.stdout = bytes(self._captured.get(("run", "stdout"), b""))
                error.stderr = bytes(self._captured.get(("run", "stderr"), b""))
            self._failure = copy(error)  # the traceback of the first would hold this handle
            raise
        finally:
            self._is_read = False
        if isinstance(event, Ended):
            self._result = event.result
        return event

    async def wait(self) -> Result:
        """Wait for the end, and return the result with the output that was not read as events.

        Raises:
            HostError: a part of this host is missing.
            UnknownOutcome: the machine was lost under the program.
        """
        async for event in self:
            if isinstance(event, Output):
                key = (event.phase, event.stream)
                self._captured.setdefault(key, bytearray()).extend(event.data)
        assert self._result is not None
        return self._result.with_output({key: bytes(data) for key, data in self._captured.items()})

    async def collect(self, on_output: OnOutput | None = None) -> Result:
        """Wait for the end, and pass the output to ``on_output`` as it comes.

        Without ``on_output`` the result has the output. A run that is left early is cancelled.

        Raises:
            HostError: this host lacks something.
            UnknownOutcome: the machine was lost under the program.
        """
        async with self:
            if on_output is not None:
                async for event in self:
                    if isinstance(event, Output):
                        await call_listener(on_output, event.phase, event.stream, event.data)
            return await self.wait()

    async def files(self) -> tuple[OutputFile, ...]:
        """Wait for the end, and return the output files.

        Raises:
            SlipwayError: as :meth:`wait`.
        """
        return (await self.wait()).files

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.cancel()

    def _update_state(self, event: Event) -> None:
        """Update state, position and ports by an event."""
        self._state = find_state(event) or self._state
        match event:
            case Queued(position=position):
                self._position = position
            case Preparing() | Ended():
                self._position = None
            case Started(ports=ports):
                self._position, self._ports = None, ports
