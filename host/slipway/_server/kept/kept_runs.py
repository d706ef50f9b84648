"""All runs that a server keeps."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._server.kept.kept_run import KeptRun
from slipway._server.kept.retention import ClientTimeouts
from slipway._util.errors import Busy, SlipwayError
from slipway._util.units import MIB

if TYPE_CHECKING:
    from slipway._model.execution import AsyncExecution
    from slipway._server.kept.retention import OutputSockets, RunPolicy
    from slipway._server.peers import Peer

# Runs that have ended and are kept for a reader. At this number no other run is started.
MAX_ENDED = 1024
# Bytes of output and output files of runs that have ended; likewise.
MAX_KEPT = 256 * MIB


class KeptRuns:
    """Table of kept runs.

    ``MAX_ENDED`` and ``MAX_KEPT`` bound the runs that have ended unread. Runs that end later may
    exceed these bounds, each by its own output. Runs that have been read are forgotten for them,
    the oldest first.
    """

    def __init__(self, sockets: OutputSockets, timeouts: ClientTimeouts | None = None) -> None:
        self._sockets = sockets
        self._timeouts = timeouts or ClientTimeouts()
        self._runs: dict[str, KeptRun] = {}
        # Bytes kept by each run that has ended.
        self._ended: dict[str, int] = {}
        # The runs among them that have been read, the oldest first.
        self._read: dict[str, KeptRun] = {}
        self._kept_bytes = 0
        self._closing = False

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def kept_bytes(self) -> int:
        """Bytes kept by runs that have ended."""
        return self._kept_bytes

    def check_room(self) -> None:
        """Check that the output of one more run can be kept.

        Raises:
            Busy: too much output is unread.
        """
        if self._closing:
            raise Busy("the server is shutting down", "Try again after its restart.", 10.0)
        self._make_room()
        if len(self._ended) >= MAX_ENDED or self._kept_bytes >= MAX_KEPT:
            raise Busy(
                f"{len(self._ended)} ended runs are unread,"
                f" with {self._kept_bytes} bytes of output and files",
                "Read their output sockets, or DELETE them.",
                max(1.0, self._timeouts.grace / 4),
            )

    async def start(self, execution: AsyncExecution, policy: RunPolicy) -> KeptRun:
        """Keep ``execution``, and open its output socket.

        On an error the execution is cancelled.

        Raises:
            Busy: too much output is unread, or no descriptors are left.
            HostError: the output socket cannot be created.
        """
        run = KeptRun(execution, policy, self._sockets, self._timeouts, self)
        try:
            self.check_room()
            run.begin()
        except SlipwayError:
            await execution.cancel()
            raise
        self._runs[run.id] = run
        return run

    def find(self, identifier: str, viewer: Peer) -> KeptRun | None:
        """Return the run with this id; None if it is unknown or ``viewer`` may not see it."""
        run = self._runs.get(identifier)
        return run if run is not None and run.is_visible_to(viewer) else None

    def list_visible(self, viewer: Peer) -> list[KeptRun]:
        """Return all runs that ``viewer`` may see, the oldest first."""
        return [run for run in self._runs.values() if run.is_visible_to(viewer)]

    def on_changed(self, run: KeptRun) -> None:
        """Count again what ``run`` keeps."""
        self._kept_bytes -= self._ended.pop(run.id, 0)
        if run.forgotten:
            self._runs.pop(run.id, None)
            self._read.pop(run.id, None)
            return
        self._ended[run.id] = kept_bytes = run.kept_bytes
        self._kept_bytes += kept_bytes
        if run.read:
            self._read[run.id] = run
        self._make_room()

    async def drain(self, seconds: float) -> None:
        """Wait until no client is connected, for ``seconds`` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while reading := [run for run in self._runs.values() if run.connected]:
                    await reading[0].wait_disconnected()

    async def close(self) -> None:
        """End all runs and remove all sockets."""
        self._closing = True
        await asyncio.gather(*(run.forget() for run in list(self._runs.values())))

    def _make_room(self) -> None:
        while self._read and (len(self._ended) >= MAX_ENDED or self._kept_bytes >= MAX_KEPT):
            oldest = next(iter(self._read))
            run = self._read.pop(oldest)
            self._kept_bytes -= self._ended.pop(oldest, 0)
            run.release()
