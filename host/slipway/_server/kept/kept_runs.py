"""All runs that a server keeps."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._model.errors import Busy, SlipwayError
from slipway._server.kept.kept_run import KeptRun
from slipway._server.kept.retention import Patience

if TYPE_CHECKING:
    from slipway._model.execution import AsyncExecution
    from slipway._server.kept.retention import Place, Terms
    from slipway._server.peers import Peer

MAX_ENDED = 1024
"""Runs that have ended and are kept for somebody to read. Then no other is started."""
MAX_KEPT = 256 * 1024 * 1024
"""Bytes of output and fetched files of runs that have ended; likewise."""


class KeptRuns:
    """Starts to keep runs, and finds them again.

    What ended unread is bounded by ``MAX_ENDED`` and ``MAX_KEPT``; runs that end later may exceed
    these bounds, each by what it leaves. What was read makes room for it, the oldest first.
    """

    def __init__(self, place: Place, patience: Patience | None = None) -> None:
        self._place = place
        self._patience = patience or Patience()
        self._runs: dict[str, KeptRun] = {}
        # Of those that have ended, the bytes that they keep.
        self._ended: dict[str, int] = {}
        # Those of them that have been read, the oldest first.
        self._read: dict[str, KeptRun] = {}
        self._kept = 0
        self._closing = False

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def kept(self) -> int:
        """Bytes that runs which have ended keep."""
        return self._kept

    def check_room(self) -> None:
        """Check that there is room for the output of one more run.

        Raises:
            Busy: too much waits to be read.
        """
        if self._closing:
            raise Busy("the server is about to end", "Try again when it has started anew.", 10.0)
        self._make_room()
        if len(self._ended) >= MAX_ENDED or self._kept >= MAX_KEPT:
            raise Busy(
                f"{len(self._ended)} runs have ended and wait to be read,"
                f" with {self._kept} bytes of output and files",
                "Read their output sockets, or DELETE them.",
                max(1.0, self._patience.grace / 4),
            )

    async def start(self, execution: AsyncExecution, terms: Terms) -> KeptRun:
        """Keep ``execution`` on ``terms``, and open its output socket.

        A run that cannot be kept is cancelled.

        Raises:
            Busy: there is no room for it.
            HostError: its output socket cannot be made.
        """
        run = KeptRun(execution, terms, self._place, self._patience, self)
        try:
            self.check_room()
            run.begin()
        except SlipwayError:
            await execution.cancel()
            raise
        self._runs[run.id] = run
        return run

    def get(self, identifier: str, viewer: Peer) -> KeptRun | None:
        """The run of that id; None where there is none that ``viewer`` may see."""
        run = self._runs.get(identifier)
        return run if run is not None and run.visible_to(viewer) else None

    def listing(self, viewer: Peer) -> list[KeptRun]:
        """All runs that ``viewer`` may see, the oldest first."""
        return [run for run in self._runs.values() if run.visible_to(viewer)]

    def changed(self, run: KeptRun) -> None:
        """Count what ``run`` keeps now."""
        self._kept -= self._ended.pop(run.id, 0)
        if run.forgotten:
            self._runs.pop(run.id, None)
            self._read.pop(run.id, None)
            return
        self._ended[run.id] = kept = run.kept
        self._kept += kept
        if run.read:
            self._read[run.id] = run
        self._make_room()

    async def drain(self, seconds: float) -> None:
        """Wait until nobody is reading any more, for ``seconds`` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while reading := [run for run in self._runs.values() if run.connected]:
                    await reading[0].until_left()

    async def close(self) -> None:
        """End all runs and remove all sockets."""
        self._closing = True
        await asyncio.gather(*(run.forget() for run in list(self._runs.values())))

    def _make_room(self) -> None:
        while self._read and (len(self._ended) >= MAX_ENDED or self._kept >= MAX_KEPT):
            oldest = next(iter(self._read))
            run = self._read.pop(oldest)
            self._kept -= self._ended.pop(oldest, 0)
            run.release()
