"""All runs that a server keeps."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._server.kept.kept_run import KeptRun
from slipway._server.kept.retention import ClientTimeouts, KeptBounds
from slipway._util.errors import Busy, SlipwayError
from slipway._util.shares import Holdings

if TYPE_CHECKING:
    from slipway._model.execution import AsyncExecution
    from slipway._server.kept.retention import OutputSockets, RunPolicy
    from slipway._server.peers import Peer
    from slipway._util.shares import Share

log = logging.getLogger("slipway.api")


class KeptRuns:
    """Table of kept runs.

    ``bounds`` bound the runs that have ended unread, and are shared (:mod:`slipway._util.shares`):
    at a bound the oldest of the share that has most is dropped for a share that has less. Runs that
    end later may exceed these bounds, each by its own output. Runs that have been read are
    forgotten for all others, the oldest first.

    Attributes:
        ended: number of runs that have ended, by share.
        kept: bytes kept by these runs, by share.
    """

    def __init__(
        self,
        sockets: OutputSockets,
        timeouts: ClientTimeouts | None = None,
        bounds: KeptBounds | None = None,
    ) -> None:
        bounds = bounds or KeptBounds()
        self._sockets = sockets
        self._timeouts = timeouts or ClientTimeouts()
        self._runs: dict[str, KeptRun] = {}
        self.ended = Holdings(bounds.kept_runs)
        self.kept = Holdings(bounds.kept_budget)
        # Bytes kept by each run that has ended, the oldest first.
        self._sizes: dict[KeptRun, int] = {}
        # The runs among them that have been read, the oldest first.
        self._read: dict[KeptRun, None] = {}
        self._closing = False

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def kept_bytes(self) -> int:
        """Bytes kept by runs that have ended."""
        return self.kept.total

    def check_room(self, share: Share) -> None:
        """Check that the output of one more run of ``share`` can be kept.

        Raises:
            Busy: too much output is unread, and no other share has more of it.
        """
        if self._closing:
            raise Busy("the server is shutting down", "Try again after its restart.", 10.0)
        self._forget_read()
        while full := self._find_full():
            run = self._find_giver(full, share)
            if run is None:
                raise Busy(
                    f"{self.ended.total} ended runs are unread,"
                    f" with {self.kept.total} bytes of output and files",
                    "Read their output sockets, or DELETE them.",
                    max(1.0, self._timeouts.grace / 4),
                )
            log.info("dropped the unread output of run %s for another user", run.id)
            self._discount(run)
            full.given_way += 1
            run.drop()

    async def start(self, execution: AsyncExecution, policy: RunPolicy) -> KeptRun:
        """Keep ``execution``, and open its output socket.

        On an error the execution is cancelled.

        Raises:
            Busy: too much output is unread, or no descriptors are left.
            HostError: the output socket cannot be created.
        """
        run = KeptRun(execution, policy, self._sockets, self._timeouts, self)
        try:
            self.check_room(policy.share)
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
        self._discount(run)
        if run.forgotten:
            self._runs.pop(run.id, None)
            return
        self._sizes[run] = kept_bytes = run.kept_bytes
        self.ended.add(run.policy.share)
        self.kept.add(run.policy.share, kept_bytes)
        if run.read:
            self._read[run] = None
        self._forget_read()

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

    def _discount(self, run: KeptRun) -> None:
        """Count ``run`` no longer; without effect if it is not counted."""
        size = self._sizes.pop(run, None)
        self._read.pop(run, None)
        if size is not None:
            self.ended.remove(run.policy.share)
            self.kept.remove(run.policy.share, size)

    def _find_full(self) -> Holdings | None:
        """Return the number or the bytes of ended runs, if at the bound."""
        full = (each for each in (self.ended, self.kept) if each.total >= each.bound)
        return next(full, None)

    def _find_giver(self, full: Holdings, taker: Share) -> KeptRun | None:
        """Return the run whose output is dropped for a run of ``taker``, if any.

        It is the oldest of the share that has most; a run that a client reads now is the last.
        """
        for giver in full.list_givers(taker):
            runs = (
                run
                for run, size in self._sizes.items()
                if run.policy.share == giver and (size or full is self.ended)
            )
            return min(runs, key=lambda run: run.connected)
        return None

    def _forget_read(self) -> None:
        while self._read and self._find_full() is not None:
            run = next(iter(self._read))
            self._discount(run)
            run.release()
