"""All sessions that a server keeps, and those that have ended not long ago."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from slipway._model.errors import Busy, SlipwayError
from slipway._server.problems import Problem, Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._local.execution import LocalExecution
    from slipway._local.session import LocalSession
    from slipway._server.http.job_request import Job
    from slipway._server.peers import AllowList, Peer

_T = TypeVar("_T")

MAX_ENDED = 1024
"""Sessions that ended by themselves and are still known, so that who comes back hears why."""
ENDED_SECONDS = 600.0
"""For how long they are known."""


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """What the one who opens a session asks for; ``idle`` in seconds."""

    id: str
    owner: Peer
    idle: float


class KeptSession:
    """``session``, and on what terms."""

    def __init__(self, session: LocalSession, terms: SessionTerms) -> None:
        self.id = terms.id
        self.session = session
        self.owner = terms.owner.uid
        self.idle = terms.idle
        self.created = time.time()
        """Seconds since the epoch."""
        self.runs = 0
        """How many it has been given."""
        self.seen_ended: float | None = None
        """When it was first found to have ended: seconds of the event loop's clock."""

    @property
    def open(self) -> bool:
        """Whether it takes runs."""
        return self.session.state == "open"

    def record(self) -> dict[str, Any]:
        """All that is known, for JSON; ``created`` in seconds since the epoch."""
        return {
            "id": self.id,
            "language": self.session.language,
            "state": self.session.state,
            "created": round(self.created, 3),
            "idle": self.idle,
            "runs": self.runs,
        }

    async def start(self, job: Job) -> LocalExecution:
        """Start or queue ``job`` in it.

        Raises:
            Refusal: it is lost, or has ended.
            SlipwayError: the job cannot be run as it stands, or there is no room in the queue.
        """
        execution = await self._asked(
            self.session.start(job.source, stdin=job.stdin, **job.options)
        )
        self.runs += 1
        return execution

    async def fork(self) -> LocalSession:
        """Another that begins as this one is now; raises as :meth:`start`."""
        return await self._asked(self.session.fork())

    async def _asked(self, answer: Awaitable[_T]) -> _T:
        try:
            return await answer
        except SlipwayError as error:
            state = self.session.state
            if state == "open" or isinstance(error, Busy):
                raise
            raise Refusal(Problem(410, f"session-{state}", error.message, error.hint)) from None


class Sessions:
    """Opens sessions and finds them again.

    An open one holds its place among the runs, so what bounds those bounds sessions as well;
    ``most`` leaves room beside them, for runs with machines of their own.
    """

    def __init__(self, allowed: AllowList, most: int | None = None) -> None:
        self._allowed = allowed
        self._most = most
        # The ids of those that are not open yet.
        self._opening: set[str] = set()
        self._sessions: dict[str, KeptSession] = {}
        self._clock = asyncio.get_running_loop().time

    def __len__(self) -> int:
        """How many are open."""
        return sum(kept.open for kept in self._sessions.values())

    async def keep(
        self, terms: SessionTerms, opened: Callable[[], Awaitable[LocalSession]]
    ) -> KeptSession:
        """Wait for the session that ``opened`` makes, and keep it.

        Raises:
            Refusal: there is one of that id.
            Busy: there are as many as may be.
            SlipwayError: what ``opened`` raises.
        """
        self._sweep()
        if terms.id in self._sessions or terms.id in self._opening:
            raise Refusal(Problem(409, "conflict", "there is a session of this id", "Use another."))
        if self._most is not None and len(self) + len(self._opening) >= self._most:
            raise Busy(
                f"{self._most} sessions are open or about to be, and no more may",
                "Close one that is no longer used: DELETE /v1/sessions/{id}",
                10.0,
            )
        self._opening.add(terms.id)
        try:
            session = await opened()
        finally:
            self._opening.discard(terms.id)
        kept = self._sessions[terms.id] = KeptSession(session, terms)
        return kept

    async def remove(self, kept: KeptSession) -> None:
        """End it and what runs in it, wait until nothing is left, and know it no longer.

        It goes on when whoever asked for it goes away in the meantime.
        """
        await asyncio.shield(asyncio.ensure_future(self._remove(kept)))

    def get(self, identifier: str, viewer: Peer) -> KeptSession | None:
        """The session of that id; None where there is none that ``viewer`` may see."""
        self._sweep()
        kept = self._sessions.get(identifier)
        return kept if kept is not None and self._visible(kept, viewer) else None

    def listing(self, viewer: Peer) -> list[KeptSession]:
        """All sessions that ``viewer`` may see, the oldest first."""
        self._sweep()
        return [kept for kept in self._sessions.values() if self._visible(kept, viewer)]

    async def _remove(self, kept: KeptSession) -> None:
        await kept.session.close()
        self._sessions.pop(kept.id, None)

    def _visible(self, kept: KeptSession, viewer: Peer) -> bool:
        return viewer.uid == kept.owner or self._allowed.oversees(viewer)

    def _sweep(self) -> None:
        """Forget those that ended long ago, and the oldest of too many."""
        now = self._clock()
        ended = [kept for kept in self._sessions.values() if not kept.open]
        for kept in ended:
            if kept.seen_ended is None:
                kept.seen_ended = now
        surplus = len(ended) - MAX_ENDED
        for number, kept in enumerate(ended):
            if number < surplus or now - (kept.seen_ended or now) >= ENDED_SECONDS:
                del self._sessions[kept.id]
