"""One run as the server keeps it: from its start until nobody is to hear of it any more."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Protocol

from slipway._model.errors import InputError, SlipwayError
from slipway._server.kept.commands import Commands
from slipway._server.kept.event_pump import Pump
from slipway._server.kept.output_log import AHEAD, OutputLog
from slipway._server.kept.output_socket import OutputSocket
from slipway._server.kept.retention import NoLongerKept
from slipway._server.peers import peer_of
from slipway._wire.errors import encode_error
from slipway._wire.fields import encode_line
from slipway._wire.results import encode_result

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from slipway._model.execution import AsyncExecution, AsyncStdin
    from slipway._model.result import OutputFile, Result
    from slipway._server.kept.retention import Patience, Place, Terms
    from slipway._server.peers import Peer

    Connection = socket.socket  # a KeptRun's "socket" is a path

log = logging.getLogger("slipway.api")

# Seconds between two looks at whether a run whose events nobody takes has ended.
_LOOK_AGAIN = 1.0


class Registry(Protocol):
    """Counts what is kept. No method may wait."""

    def changed(self, run: KeptRun) -> None:
        """``run`` has ended, has been read, or is forgotten."""


class KeptRun:
    """``execution``, its output and its socket; under ``terms``, with ``patience``."""

    def __init__(
        self,
        execution: AsyncExecution,
        terms: Terms,
        place: Place,
        patience: Patience,
        registry: Registry,
    ) -> None:
        self.id = execution.id
        self.execution = execution
        self.terms = terms
        self.created = time.time()
        """Seconds since the epoch."""
        self.ended = False
        """Whether the run is over; what it wrote may still have to be read."""
        self.read = False
        """Whether a client has read the whole stream; the socket is gone then."""
        self.forgotten = False
        """Whether nothing is left."""
        self._allowed = place.allowed
        self._patience = patience
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._output = OutputLog()
        self._pump = Pump(execution, self._output, terms.stream)
        self._socket = OutputSocket(place.directory / self.id, place.access, self._output, self)
        self._news = asyncio.Event()
        self._delivered = False
        self._released = False
        self._unwanted = False
        self._departure: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._life: asyncio.Task[None]

    def begin(self) -> None:
        """Open the socket, and take the run's events from now on.

        Raises:
            HostError: there can be no socket; the run has to be cancelled then.
        """
        self._socket.open()
        self._life = self._loop.create_task(self._live(), name=f"slipway-run-{self.id}")
        self._life.add_done_callback(self._forget)

    @property
    def result(self) -> Result | None:
        """What became of the run, whether or not somebody has read its output."""
        outcome = self.execution.outcome
        return None if isinstance(outcome, SlipwayError) else outcome

    @property
    def failure(self) -> SlipwayError | None:
        """Why there is no result."""
        outcome = self.execution.outcome
        return outcome if isinstance(outcome, SlipwayError) else None

    @property
    def socket(self) -> Path | None:
        """The path of the output socket, as long as there is one."""
        return None if self.read or self.forgotten else self._socket.path

    @property
    def connected(self) -> bool:
        """Whether a client is connected to the output socket."""
        return self._socket.connected

    @property
    def kept(self) -> int:
        """Bytes of output and fetched files that are kept."""
        files = self.result.files if self.result is not None else ()
        fetched = sum(len(file.data) for file in files if file.data is not None)
        return self._output.size + self.execution.untaken + fetched

    @property
    def stdin(self) -> AsyncStdin:
        """The program's standard input."""
        return self.execution.stdin

    def record(self) -> dict[str, Any]:
        """All that is known, for JSON; ``created`` in seconds since the epoch."""
        path = self.socket
        record: dict[str, Any] = {
            "id": self.id,
            "language": self.execution.language,
            "state": "ended" if self.ended else self.execution.state,
            "position": None if self.ended else self.execution.position,
            "created": round(self.created, 3),
            "socket": None if path is None else str(path),
            "stream": self.terms.stream,
            "detached": self.terms.detached,
            "session": self.terms.session or None,
            "kept_from": self._output.start,
        }
        if self.result is not None:
            record["result"] = encode_result(self.result, output=False, files=False)
        if self.failure is not None:
            record["failure"] = encode_error(self.failure)
        return record

    def file(self, path: str) -> OutputFile | None:
        """The fetched file of that name; None where there is none, or not yet."""
        files = self.result.files if self.result is not None else ()
        return next((file for file in files if file.path == path), None)

    def visible_to(self, viewer: Peer) -> bool:
        """Whether ``viewer`` may know of this run."""
        return viewer.uid == self.terms.owner or self._allowed.oversees(viewer)

    def resume(self, offset: int) -> None:
        """Have the next client begin at ``offset`` of the stream. Who is connected is cut off.

        Raises:
            NoLongerKept: that byte, or the socket, is gone.
            InputError: the stream is not that long.
        """
        if self.socket is None:
            raise NoLongerKept("the whole stream has been read, and its socket is gone")
        if offset < self._output.start:
            raise NoLongerKept(
                f"byte {offset} of the stream is no longer kept",
                f"The oldest one kept is {self._output.start}.",
            )
        if not 0 <= offset <= self._output.end:
            raise InputError(
                f"byte {offset} is beyond the stream's end, {self._output.end}",
                "Resume at the number of bytes that have come.",
            )
        self._socket.resume(offset)

    async def signal(self, number: int) -> None:
        """Send a signal to the program of the phase that runs; raises SlipwayError."""
        await self.execution.signal(number)

    async def resize(self, rows: int, columns: int) -> None:
        """Give the program's terminal another size; raises SlipwayError."""
        await self.execution.resize(rows, columns)

    async def cancel(self) -> None:
        """End the run, and wait until its machine is gone.

        It goes on when whoever asked for it goes away in the meantime.
        """
        await asyncio.shield(self._end())

    async def remove(self) -> None:
        """End the run; its output can still be read. One that has ended is forgotten at once.

        Somebody who is connected may read on even then.
        """
        if not self.ended:
            await self.cancel()
        elif not self.connected:
            await self.forget()

    async def forget(self) -> None:
        """End all of it now, and wait until nothing is left."""
        self._unwanted = True
        self._news.set()
        await self.over()

    def release(self) -> None:
        """Keep it no longer, if it has been read."""
        self._released = True
        self._news.set()

    async def over(self) -> None:
        """Wait until nothing is left."""
        await asyncio.wait([self._life])

    async def until_left(self) -> None:
        """Wait until nobody is connected."""
        while self.connected:
            self._news.clear()
            await self._news.wait()

    async def refuse(self, error: SlipwayError) -> None:
        """Tell the client of an events stream that its command was not carried out."""
        told = {"type": "refused", "message": error.message, "hint": error.hint}
        await self._output.append(encode_line(told))

    def admits(self, peer: Connection) -> bool:
        """Whether the process that has connected may have this run's output."""
        try:
            viewer = peer_of(peer)
        except OSError:
            return False
        return self._allowed.permits(viewer) and self.visible_to(viewer)

    def commands(self) -> Commands | None:
        """Who takes what a new client sends; a raw stream has no commands."""
        return Commands(self) if self.terms.stream == "events" else None

    def arrived(self) -> None:
        """A client is connected; the run is not to be cancelled then."""
        self._stay()

    def left(self, *, delivered: bool) -> None:
        """A client has gone."""
        self._news.set()
        if delivered:
            self._delivered = True
        elif not self.ended and not self.terms.detached:
            self._stay()
            self._departure = self._loop.call_later(self._patience.reconnect, self._abandon)

    def _stay(self) -> None:
        if self._departure is not None:
            self._departure.cancel()
            self._departure = None

    def _abandon(self) -> None:
        log.info("the client of %s left and did not come back: it is cancelled", self.id)
        self._end()

    def _end(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = self._loop.create_task(self.execution.cancel())
            self._ending.add_done_callback(lambda _: self._news.set())
        return self._ending

    def _is_over(self) -> bool:
        """Whether the machine is gone, although not all of its events may have been taken."""
        cancelled = self._ending is not None and self._ending.done()
        return cancelled or self.execution.state == "ended"

    async def _live(self) -> None:
        pump = self._loop.create_task(self._pump.run())
        pump.add_done_callback(lambda _: self._news.set())
        try:
            await self._until_ended(pump)
            self.ended = True
            self._stay()
            self._registry.changed(self)
            await self._until_read()
            if self._delivered:
                await self._socket.close()
                self._output.clear()
                self.read = True
                self._registry.changed(self)
                # Events have told all of it. Of a raw stream, the result has to be asked for.
                if self.terms.stream == "raw":
                    await self._wait_until(lambda: self._released, self._patience.grace)
        finally:
            self._stay()
            pump.cancel()
            await asyncio.wait([pump])
            await self._socket.close()
            await self.cancel()

    async def _until_ended(self, pump: asyncio.Task[None]) -> None:
        """Wait for the run's end, which the pump does not see where nobody reads its output."""
        taken, since = -1, 0.0
        while not await self._wait_until(lambda: pump.done() or self._is_over(), _LOOK_AGAIN):
            if self._unwanted:
                return
            now = self._loop.time()
            if self._output.taken != taken or not self._output.full:
                taken, since = self._output.taken, now
            elif now - since >= self._patience.stall:
                log.info("nobody reads what %s wrote: it is cancelled", self.id)
                await self.cancel()

    async def _until_read(self) -> None:
        """Wait until all has been read, or for the grace. Who reads a window in it has another."""
        taken = -AHEAD
        while self._output.taken - taken >= AHEAD and not self._unwanted:
            taken = self._output.taken
            if await self._wait_until(lambda: self._delivered, self._patience.grace):
                return

    async def _wait_until(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Wait until that is so, or this is unwanted, but not longer; return whether it is so."""
        try:
            async with asyncio.timeout(seconds):
                while not reached() and not self._unwanted:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return reached()

    def _forget(self, life: asyncio.Task[None]) -> None:
        self._output.clear()
        self.forgotten = True
        self._news.set()
        if not life.cancelled() and (error := life.exception()) is not None:
            log.error("keeping the run %s ended by a bug", self.id, exc_info=error)
        self._registry.changed(self)
