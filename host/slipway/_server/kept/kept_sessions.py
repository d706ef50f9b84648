"""All sessions that a server keeps, and sessions that have ended a short time ago."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from slipway._server.problems import Problem, Refusal
from slipway._util.errors import Busy, SlipwayError
from slipway._util.shares import Holdings
from slipway._wire.ports import encode_ports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._local.execution import LocalExecution
    from slipway._local.session import LocalSession
    from slipway._model.run_request import RunRequest
    from slipway._server.peers import AllowList, Peer
    from slipway._util.shares import Share

_T = TypeVar("_T")

# Sessions that ended by themselves and are still known, so that a client that comes back gets the
# reason.
MAX_ENDED = 1024
# Seconds for which they are known.
ENDED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """Id and owner of a session, and its idle time in seconds, as its client has chosen them.

    ``share`` has the owner and the client's key.
    """

    id: str
    owner: Peer
    idle: float
    share: Share


class KeptSession:
    """Session of a client.

    Attributes:
        created: seconds since the epoch.
        runs: number of runs that the session has been given.
        seen_ended: the first time that the session was found ended, in seconds of the event loop's
            clock.
    """

    def __init__(self, session: LocalSession, policy: SessionPolicy) -> None:
        self.id = policy.id
        self.session = session
        self.owner = policy.owner.uid
        self.share = policy.share
        self.idle = policy.idle
        self.created = time.time()
        self.runs = 0
        self.seen_ended: float | None = None

    @property
    def is_open(self) -> bool:
        """True while the session accepts runs."""
        return self.session.state == "open"

    def build_record(self) -> dict[str, Any]:
        """Return the response of ``GET /v1/sessions/{id}``."""
        return {
            "id": self.id,
            "language": self.session.language,
            "state": self.session.state,
            "created": round(self.created, 3),
            "idle": self.idle,
            "runs": self.runs,
            "ports": encode_ports(self.session.ports),
        }

    async def start(self, wanted: RunRequest) -> LocalExecution:
        """Start or queue a run in the session.

        Raises:
            Refusal: the session is lost, or has ended.
            SlipwayError: invalid job, or the session's queue is full.
        """
        execution = await self._request(self.session.start_request(wanted))
        self.runs += 1
        return execution

    async def fork(self) -> LocalSession:
        """Return a new session with the state of this session.

        Raises:
            Refusal: the session is lost, or has ended.
            SlipwayError: the host has no room for the session.
        """
        return await self._request(self.session.fork())

    async def _request(self, answer: Awaitable[_T]) -> _T:
        try:
            return await answer
        except SlipwayError as error:
            state = self.session.state
            if state == "open" or isinstance(error, Busy):
                raise
            raise Refusal(Problem(410, f"session-{state}", error.message, error.hint)) from None


class KeptSessions:
    """Table of sessions.

    An open session holds its slot among the runs, so that the bounds of runs also bound sessions.
    ``most`` is a lower bound, which leaves room for runs with their own machines. At this bound an
    idle session of the share that has most gives way (:mod:`slipway._util.shares`).
    """

    def __init__(self, allowed: AllowList, most: int | None = None) -> None:
        self._allowed = allowed
        self._most = most
        # Sessions that are not open yet, by id.
        self._opening: dict[str, Share] = {}
        self._sessions: dict[str, KeptSession] = {}
        self._clock = asyncio.get_running_loop().time

    def __len__(self) -> int:
        """Return the number of open sessions."""
        return sum(kept.is_open for kept in self._sessions.values())

    async def keep(
        self, policy: SessionPolicy, opener: Callable[[], Awaitable[LocalSession]]
    ) -> KeptSession:
        """Open a session with ``opener``, and keep it.

        Raises:
            Refusal: the id is in use.
            Busy: the maximum number of sessions is open.
            SlipwayError: raised by ``opener``.
        """
        self._sweep()
        if policy.id in self._sessions or policy.id in self._opening:
            raise Refusal(Problem(409, "conflict", "a session has this id", "Use another id."))
        if not self._make_room(policy.share):
            raise Busy(
                f"the server's {self._most} sessions are all open or being opened",
                "Close a session that is no longer used: DELETE /v1/sessions/{id}",
                10.0,
            )
        self._opening[policy.id] = policy.share
        try:
            session = await opener()
        finally:
            del self._opening[policy.id]
        kept = self._sessions[policy.id] = KeptSession(session, policy)
        return kept

    def _make_room(self, share: Share) -> bool:
        """Have an idle session give way to a new one, if necessary; False if there is none."""
        if self._most is None or len(self) + len(self._opening) < self._most:
            return True
        held = Holdings(self._most)
        open_ones = [kept for kept in self._sessions.values() if kept.is_open]
        for each in (*self._opening.values(), *(kept.share for kept in open_ones)):
            held.add(each)
        for giver in held.list_givers(share):
            for kept in open_ones:
                if kept.share == giver and kept.session.is_idle:
                    kept.session.give_way()
                    return True
        return False

    async def remove(self, kept: KeptSession) -> None:
        """End a session and its runs, wait until nothing is left, and forget the session.

        The session ends even if the caller is cancelled while waiting.
        """
        await asyncio.shield(asyncio.ensure_future(self._remove(kept)))

    def find(self, identifier: str, viewer: Peer) -> KeptSession | None:
        """Return the session with this id; None if it is unknown or ``viewer`` may not see it."""
        self._sweep()
        kept = self._sessions.get(identifier)
        return kept if kept is not None and self._allowed.may_see(viewer, kept.owner) else None

    def list_visible(self, viewer: Peer) -> list[KeptSession]:
        """Return all sessions that ``viewer`` may see, the oldest first."""
        self._sweep()
        return [
            kept for kept in self._sessions.values() if self._allowed.may_see(viewer, kept.owner)
        ]

    async def _remove(self, kept: KeptSession) -> None:
        await kept.session.close()
        self._sessions.pop(kept.id, None)

    def _sweep(self) -> None:
        """Forget sessions that ended long ago, and the oldest of too many ended sessions."""
        now = self._clock()
        ended = [kept for kept in self._sessions.values() if not kept.is_open]
        for kept in ended:
            if kept.seen_ended is None:
                kept.seen_ended = now
        surplus = len(ended) - MAX_ENDED
        for number, kept in enumerate(ended):
            if number < surplus or now - (kept.seen_ended or now) >= ENDED_SECONDS:
                del self._sessions[kept.id]
