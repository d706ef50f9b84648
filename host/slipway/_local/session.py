"""Sessions in machines of this process."""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import TYPE_CHECKING, Any

from slipway._admission import Admission, Capacity, Needs
from slipway._local.execution import LocalExecution
from slipway._local.session_fork import Forking
from slipway._local.session_slot import Place
from slipway._model.arguments import open_stdin, read_source
from slipway._model.errors import HostError, InputError, SlipwayError
from slipway._model.options import MACHINE_OPTIONS, build_options
from slipway._model.session import AsyncSession, check_run_options
from slipway._run.run import Run
from slipway._util.threads import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from slipway._local.session_slot import Home, Terms
    from slipway._model.arguments import Source, Stdin
    from slipway._model.options import Options
    from slipway._run.assets import Assets, Progress
    from slipway._run.guest import Guest
    from slipway_initramfs.languages.catalogue import Language

# How many runs of one session may wait for their turn.
QUEUE = 64


class LocalSession(AsyncSession):
    """A session that has its place in the admission of ``home`` while it has a machine."""

    def __init__(self, home: Home, terms: Terms, place: Place | None = None) -> None:
        """``place``: that of a fork, whose machine is not the launcher's."""
        super().__init__(secrets.token_hex(16), terms.language.name)
        self._home = home
        self._terms = terms
        # One after the other, in the order in which they came.
        self._turns = Admission(Capacity(1, sys.maxsize, sys.maxsize, QUEUE))
        self._executions: set[LocalExecution] = set()
        self._forks: set[LocalSession] = set()
        self._place = place or Place(home, terms)
        self._launched = place is None
        self._guest: Guest | None = None
        self._used = False
        self._why: Callable[[], SlipwayError]
        self._opening: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._dropping: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- Its beginning ----------------------------------------------------------------------

    async def open(self) -> None:
        """Take a place and a machine; see :meth:`AsyncSession.open`."""
        await self._become(self._place.launch)

    async def _become(self, make: Callable[[], Awaitable[Guest]]) -> None:
        """Be open, with the guest that ``make`` makes."""
        if self._state == "open":
            return
        if self._state != "opening":
            raise self._why()
        if self._opening is None:
            self._home.check()
            self._home.sessions.add(self)
            self._opening = asyncio.create_task(self._enter(make), name=f"slipway-open-{self.id}")
        try:
            await asyncio.wait([self._opening])
        except asyncio.CancelledError:
            await self.close()
            raise
        if not self._opening.cancelled() and (error := self._opening.exception()) is not None:
            raise error
        if self._state != "open":
            raise self._why()

    async def _enter(self, make: Callable[[], Awaitable[Guest]]) -> None:
        try:
            await self._place.take()
            self._guest = guest = await make()
        except BaseException as error:
            if self._state == "opening":
                told = f"the session could not be opened: {error}"
                self._end("ended", lambda: InputError(told, "Open another."))
            self._leave_place()
            raise
        if self._state == "opening":  # else it is being closed, and the guest with it
            self._state = "open"
            self._watch = asyncio.create_task(self._watch_over(guest))
            self._rest()

    # --- Its runs ---------------------------------------------------------------------------

    async def start(
        self,
        source: Source,
        *,
        stdin: Stdin | None = b"",
        **options: Any,
    ) -> LocalExecution:
        """Start ``source``, or queue it; see :meth:`AsyncSession.start`."""
        self._check_open()
        check_run_options(options)
        mine = {name: getattr(self._terms.options, name) for name in MACHINE_OPTIONS}
        checked = build_options({**options, **mine})
        opened = open_stdin(stdin)
        text = await read_source(source)
        self._check_open()
        launcher = _Launcher(self, self._place.assets)
        run = Run(self._terms.language, text, checked, launcher, keep=True)
        run.prepare()
        execution = LocalExecution(run, self._turns, self._home.makings, "", opened, kept=True)
        execution.begin()
        self._executions.add(execution)
        self._rest()
        execution.when_over(self._over)
        return execution

    def _over(self, execution: LocalExecution) -> None:
        self._executions.discard(execution)
        self._rest()

    def _check_open(self) -> None:
        """Check that it can be used.

        Raises:
            Busy: the runtime is being closed.
            InputError: it is not open.
            HostError: its machine was lost, or had no run for too long.
        """
        self._home.check()
        if self._state == "opening":
            raise InputError(
                "the session is not open", "Use it as a context manager, or open() it first."
            )
        if self._state != "open":
            raise self._why()

    def _lend(self) -> Guest:
        """Its guest, for one run."""
        from slipway._run.guest import Origin

        if self._guest is None or self._state != "open":
            raise self._why()
        origin = self._guest.origin
        self._guest.taken(Origin("session", "", origin.machine_reason) if self._used else origin)
        self._used = True
        return self._guest

    async def _take_back(self, guest: Guest) -> None:
        """A run is over; a guest that did not come to its end is not given another."""
        if not guest.idle:
            await self._lose("its machine was lost under a run, or did not end one in time")

    # --- Its forks --------------------------------------------------------------------------

    async def fork(self) -> LocalSession:
        """Another that begins as this one is now; see :meth:`AsyncSession.fork`."""
        self._check_open()
        other = LocalSession(self._home, self._terms, self._place.for_fork())
        self._forks.add(other)
        self._rest()
        try:
            await other._become(self._clone)
        finally:
            self._forks.discard(other)
            self._rest()
        return other

    async def _clone(self) -> Guest:
        """A guest that is as ours is when its turn comes. Called in a task of the fork's."""
        ticket = self._turns.enter("", Needs(0, 0))
        try:
            await ticket.admitted.wait()
            self._check_open()
            assert self._guest is not None
            return await Forking(self._guest, self._is_open, self._lose).clone()
        finally:
            self._turns.leave(ticket)

    def _is_open(self) -> bool:
        return self._state == "open"

    # --- Its end ----------------------------------------------------------------------------

    async def close(self) -> None:
        """End it, whatever it is doing; see :meth:`AsyncSession.close`."""
        await self._finish(lambda: InputError("the session has been closed", "Open another."))

    async def drain(self) -> None:
        """Wait for its runs, and close it."""
        while self._executions:
            await asyncio.gather(*(execution.over() for execution in self._executions))
        await self.close()

    async def _finish(self, why: Callable[[], SlipwayError]) -> None:
        self._end("ended", why)
        if self._ending is None:
            self._ending = asyncio.create_task(self._ended(), name=f"slipway-close-{self.id}")
        await uninterrupted(_done(self._ending))

    async def _ended(self) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await asyncio.gather(*(execution.cancel() for execution in list(self._executions)))
        # A fork ends with the machine that it is of, whatever it waits for there.
        await asyncio.gather(self._drop(), *(fork._finish(self._why) for fork in list(self._forks)))

    def _end(self, state: str, why: Callable[[], SlipwayError]) -> None:
        """It is not to be used any more; the first reason is the one that is told."""
        if self._state in {"opening", "open"}:
            self._why = why
        self._state = state
        self._rest()

    async def _lose(self, why: str) -> None:
        """Its machine is of no use any more. Runs that wait will be told, each in its turn."""
        if self._state == "open":
            self._end("lost", lambda: HostError(f"the session is lost: {why}", "Open another."))
        await self._drop()

    async def _drop(self) -> None:
        """Stop its guest and leave its place."""
        if self._dropping is None:
            self._dropping = asyncio.create_task(self._dropped())
        await uninterrupted(_done(self._dropping))

    async def _dropped(self) -> None:
        guest, self._guest = self._guest, None
        try:
            if guest is not None:
                await (self._home.launcher.release(guest) if self._launched else guest.stop())
        finally:
            self._leave_place()

    def _leave_place(self) -> None:
        self._place.leave()
        self._home.sessions.discard(self)

    async def _watch_over(self, guest: Guest) -> None:
        """A machine that ends while it has no run is not noticed by any."""
        await guest.machine.wait()
        if guest.idle and self._state == "open":
            words = await guest.machine.last_words()
            await self._lose("its machine ended by itself" + (f" ({words})" if words else ""))

    def _rest(self) -> None:
        """End it after a while in which it has nothing to do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._state == "open" and not self._executions and not self._forks:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._terms.idle_seconds, self._expire)

    def _expire(self) -> None:
        def why() -> HostError:
            return HostError(
                f"the session has ended: it had no run for {self._terms.idle_seconds:g} s",
                "Open another, with a longer idle time (idle_seconds).",
            )

        self._expiry = asyncio.create_task(self._finish(why))


class _Launcher:
    """Where the runs of a session get their machine: it is the same for all."""

    def __init__(self, session: LocalSession, assets: Assets) -> None:
        self._session = session
        self._assets = assets

    def find(
        self, language: Language, options: Options, progress: Progress, *, repair: bool = False
    ) -> Assets:
        return self._assets

    def is_built(self, language: Language) -> bool:
        return True

    async def launch(self, assets: Assets, options: Options) -> Guest:
        return self._session._lend()

    async def release(self, guest: Guest) -> None:
        await self._session._take_back(guest)


async def _done(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
    task.result()
