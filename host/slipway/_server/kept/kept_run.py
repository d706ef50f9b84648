"""Run that a server keeps, from its start until its output and result have been read or dropped."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

from slipway._server.kept.change_notifier import ChangeNotifier
from slipway._server.kept.event_pump import EventPump
from slipway._server.kept.output_log import AHEAD, OutputLog
from slipway._server.kept.output_socket import OutputSocket
from slipway._server.kept.retention import NoLongerKept
from slipway._server.kept.run_client import RunClient
from slipway._util.errors import InputError, SlipwayError
from slipway._wire.fields import encode_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway._model.execution import AsyncExecution, AsyncStdin
    from slipway._model.result import OutputFile, Result
    from slipway._server.kept.retention import ClientTimeouts, OutputSockets, RunPolicy
    from slipway._server.peers import Peer

log = logging.getLogger("slipway.api")

# Seconds between two checks for the end of a run whose output nobody reads: its last events then
# stay in the execution, and the pump does not see them.
_CHECK_SECONDS = 1.0


class KeptRunObserver(Protocol):
    """Counter of the memory of kept runs."""

    def on_changed(self, run: KeptRun) -> None:
        """Note that ``run`` has ended, has been read, or is forgotten. Must not wait."""


class KeptRun:
    """Execution, its output and its output socket.

    Attributes:
        created: seconds since the epoch.
        output: the stream that clients read.
        ended: the run is over; its output may still be unread.
        read: a client has read the whole stream; the socket is gone.
        forgotten: nothing is kept any more.
    """

    def __init__(
        self,
        execution: AsyncExecution,
        policy: RunPolicy,
        sockets: OutputSockets,
        timeouts: ClientTimeouts,
        observer: KeptRunObserver,
    ) -> None:
        self.id = execution.id
        self.execution = execution
        self.policy = policy
        self.created = time.time()
        self.ended = False
        self.read = False
        self.forgotten = False
        self._allowed = sockets.allowed
        self._timeouts = timeouts
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self.output = OutputLog()
        self._pump = EventPump(execution, self.output, policy.stream)
        self._changes = ChangeNotifier()
        self._client = RunClient(
            policy, sockets.allowed, timeouts.reconnect, self, self._on_abandoned, self._changes
        )
        self._socket = OutputSocket(
            sockets.directory / self.id, sockets.access, self.output, self._client
        )
        self._released = False
        self._unwanted = False
        self._cancelling: asyncio.Task[None] | None = None
        self._life: asyncio.Task[None]

    def begin(self) -> None:
        """Open the output socket, and take the run's events from now on.

        Raises:
            Busy: this process has no descriptors left. The caller cancels the run.
            HostError: the socket cannot be created. The caller cancels the run.
        """
        self._socket.open()
        self._life = self._loop.create_task(self._keep_output(), name=f"slipway-kept-run-{self.id}")
        self._life.add_done_callback(self._on_life_over)

    @property
    def result(self) -> Result | None:
        """Result of the run, as soon as the run is over, read or unread."""
        outcome = self.execution.outcome
        return None if isinstance(outcome, SlipwayError) else outcome

    @property
    def failure(self) -> SlipwayError | None:
        """Error of a run that has ended without a result."""
        outcome = self.execution.outcome
        return outcome if isinstance(outcome, SlipwayError) else None

    @property
    def socket(self) -> Path | None:
        """Path of the output socket, while the socket exists."""
        return None if self.read or self.forgotten else self._socket.path

    @property
    def connected(self) -> bool:
        """True while a client is connected to the output socket."""
        return self._socket.connected

    @property
    def awaits_client(self) -> bool:
        """True while a client that has left has time to come back."""
        return self._client.awaits_return

    @property
    def kept_from(self) -> int:
        """Offset of the oldest byte of the stream that is kept."""
        return self.output.start

    @property
    def kept_bytes(self) -> int:
        """Bytes of output and output files in memory."""
        files = self.result.files if self.result is not None else ()
        fetched = sum(len(file.data) for file in files if file.data is not None)
        return self.output.size + self.execution.pending_bytes + fetched

    @property
    def stdin(self) -> AsyncStdin:
        """The program's standard input."""
        return self.execution.stdin

    def find_file(self, path: str) -> OutputFile | None:
        """Return an output file of a run that is over; None if ``path`` was not requested."""
        files = self.result.files if self.result is not None else ()
        return next((file for file in files if file.path == path), None)

    def is_visible_to(self, viewer: Peer) -> bool:
        """Tell if ``viewer`` may know of this run."""
        return self._allowed.may_see(viewer, self.policy.owner)

    def resume(self, offset: int) -> None:
        """Let the next client begin at ``offset`` of the stream. The current client is cut off.

        Raises:
            NoLongerKept: the byte has been dropped, or the whole stream has been read.
            InputError: the stream is shorter.
        """
        if self.socket is None:
            raise NoLongerKept("the whole stream has been read, and its socket is gone")
        if offset < self.output.start:
            raise NoLongerKept(
                f"byte {offset} of the stream is no longer kept",
                f"The oldest byte that is kept is {self.output.start}.",
            )
        if not 0 <= offset <= self.output.end:
            raise InputError(
                f"byte {offset} is beyond the stream's end, {self.output.end}",
                "Resume at the number of bytes that you have read.",
            )
        self._socket.resume(offset)

    async def signal(self, number: int) -> None:
        """Send a signal to the program of the current phase.

        Raises:
            SlipwayError: no phase runs, the signal is invalid, or the machine was lost.
        """
        await self.execution.signal(number)

    async def resize(self, rows: int, columns: int) -> None:
        """Set the size of the program's terminal.

        Raises:
            SlipwayError: the program has no terminal, or the size is invalid.
        """
        await self.execution.resize(rows, columns)

    async def cancel(self) -> None:
        """End the run, and wait until its machine is gone.

        The run ends even if the caller is cancelled while waiting.
        """
        await asyncio.shield(self._start_cancel())

    async def remove(self) -> None:
        """End the run, and keep its output; forget a run that has ended.

        A client that is connected to the output of an ended run can read on.
        """
        if not self.ended:
            await self.cancel()
        elif not self.connected:
            await self.forget()

    async def forget(self) -> None:
        """End the run, drop its output, and wait until nothing is left."""
        self.drop()
        await self.wait_forgotten()

    def drop(self) -> None:
        """Drop the output of a run that has ended, without waiting."""
        self._unwanted = True
        self._changes.notify()

    def release(self) -> None:
        """Drop the result of a run whose output has been read."""
        self._released = True
        self._changes.notify()

    async def wait_forgotten(self) -> None:
        """Wait until nothing is kept."""
        await asyncio.wait([self._life])

    async def wait_disconnected(self) -> None:
        """Wait until no client is connected."""
        await self._changes.wait_until(lambda: not self.connected)

    async def report_refusal(self, error: SlipwayError) -> None:
        """Write to the events stream that a command was refused."""
        record = {"type": "refused", "message": error.message, "hint": error.hint}
        await self.output.append(encode_line(record))

    def _on_abandoned(self) -> None:
        log.info("cancelled run %s: its client left and did not come back", self.id)
        self._start_cancel()

    def _start_cancel(self) -> asyncio.Task[None]:
        if self._cancelling is None:
            self._cancelling = self._loop.create_task(self.execution.cancel())
            self._cancelling.add_done_callback(lambda _: self._changes.notify())
        return self._cancelling

    async def _keep_output(self) -> None:
        """Keep the output until a client has read it or its time is over; then end the run."""
        pump = self._loop.create_task(self._pump.run())
        pump.add_done_callback(lambda _: self._changes.notify())
        try:
            await self._wait_ended(pump)
            self.ended = True
            self._client.expect_none()
            self._observer.on_changed(self)
            await self._wait_read()
            if self._client.delivered:
                await self._socket.close()
                self.output.clear()
                self.read = True
                self._observer.on_changed(self)
                # An events stream has the result; for a raw stream the client has to ask for it.
                if self.policy.stream == "raw":
                    await self._wait_until(lambda: self._released, self._timeouts.grace)
        finally:
            self._client.expect_none()
            pump.cancel()
            await asyncio.wait([pump])
            await self._socket.close()
            if not self._is_over():
                await self.cancel()

    async def _wait_ended(self, pump: asyncio.Task[None]) -> None:
        """Wait for the run's end. A run whose output nobody reads is cancelled after a while."""
        taken, since = -1, 0.0
        while not await self._wait_until(lambda: pump.done() or self._is_over(), _CHECK_SECONDS):
            if self._unwanted:
                return
            now = self._loop.time()
            if self.output.taken != taken or not self.output.full:
                taken, since = self.output.taken, now
            elif now - since >= self._timeouts.stall:
                log.info("cancelled run %s: nobody reads its output", self.id)
                await self.cancel()

    def _is_over(self) -> bool:
        """Tell if the machine is gone, although the pump may still have events to take."""
        cancelled = self._cancelling is not None and self._cancelling.done()
        return cancelled or self.execution.state == "ended"

    async def _wait_read(self) -> None:
        """Wait until the stream has been read, or nobody has read a window of it for the grace."""
        taken = -AHEAD
        while self.output.taken - taken >= AHEAD and not self._unwanted:
            taken = self.output.taken
            if await self._wait_until(lambda: self._client.delivered, self._timeouts.grace):
                return

    async def _wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for ``condition``, at most for ``seconds`` or until the run is unwanted."""
        await self._changes.wait_until(lambda: condition() or self._unwanted, seconds)
        return condition()

    def _on_life_over(self, life: asyncio.Task[None]) -> None:
        self.output.clear()
        self.forgotten = True
        self._changes.notify()
        if not life.cancelled() and (error := life.exception()) is not None:
            log.error("bug in keeping run %s", self.id, exc_info=error)
        self._observer.on_changed(self)
