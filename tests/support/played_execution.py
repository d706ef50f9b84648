"""A run without a machine, which plays what a test tells it to."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from slipway._model.events import Ended, Output, PhaseEnded, PhaseStarted, Started
from slipway._model.execution import AsyncExecution
from slipway._model.options import Tty
from slipway._model.result import (
    Captured,
    OutputFile,
    PhaseResult,
    Provenance,
    Result,
    Timing,
    Usage,
    Verdict,
)
from slipway._util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway._model.events import Event

_PHASE = PhaseResult(Verdict.OK, 0, 0, Usage(0.1, 0.1, 0.0, 1, 1), Captured(), Captured())
_PROVENANCE = Provenance("fake", "", "python", "", "", 0, 1)


def result(verdict: Verdict = Verdict.OK, files: tuple[OutputFile, ...] = ()) -> Result:
    """The result of a run without output."""
    run = PhaseResult(verdict, 0, 0, _PHASE.usage, Captured(), Captured())
    return Result("python", None, run, files, Timing(), _PROVENANCE)


def printing(*pieces: bytes, files: tuple[OutputFile, ...] = ()) -> list[Event]:
    """The events of a program that writes ``pieces``, each at once, and ends well."""
    return [*writing(*pieces), PhaseEnded("run", _PHASE), Ended(result(files=files))]


def writing(*pieces: bytes) -> list[Event]:
    """The events of a program that writes ``pieces`` and goes on running."""
    return [
        Started("fake"),
        PhaseStarted("run"),
        *(Output("run", "stdout", piece) for piece in pieces),
    ]


class PlayedExecution(AsyncExecution):
    """Gives ``events``, then raises ``failure``; without an end it runs until it is cancelled.

    ``given`` counts the events that were taken, ``written`` is what came for stdin, ``signals`` the
    signals that were sent, ``sizes`` those that its terminal was given. While ``reading`` is not
    set, the program does not read.
    """

    def __init__(self, events: Iterable[Event] = (), failure: Exception | None = None) -> None:
        super().__init__(secrets.token_hex(16), "python")
        self._events = iter(events)
        self._failed = failure
        self._cancelled = asyncio.Event()
        self._cancel_told = False
        self.given = 0
        self.written = b""
        self.input_ended = False
        self.signals: list[int] = []
        self.sizes: list[Tty] = []
        self.cancels = 0
        self.reading = asyncio.Event()
        self.reading.set()

    @property
    def cancelled(self) -> asyncio.Event:
        """Is set once somebody has cancelled the run."""
        return self._cancelled

    def end(self) -> None:
        """Be over, although nobody has taken all events: the machine is gone."""
        self._state = "ended"

    async def resize(self, rows: int, columns: int) -> None:
        self.sizes.append(Tty(rows, columns))

    async def signal(self, number: int) -> None:
        if self._state != "running":
            raise InputError(f"no program of this run is running: it is {self._state}")
        self.signals.append(number)

    async def cancel(self) -> None:
        self.cancels += 1
        self._cancelled.set()

    async def _next(self) -> Event:
        await asyncio.sleep(0)
        event = None if self._cancelled.is_set() else next(self._events, None)
        if event is None:
            if self._failed is not None:
                self._state = "ended"
                raise self._failed
            await self._cancelled.wait()
            event = Ended(result(Verdict.CANCELLED))
        self.given += 1
        self._update_state(event)
        return event

    async def _write(self, data: bytes) -> None:
        await self.reading.wait()
        self.written += data

    async def _end_input(self) -> None:
        self.input_ended = True
