"""Sessions in machines of this process."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity
from slipway._local.execution import LocalExecution, build_job
from slipway._local.session_fork import clone_between_jobs
from slipway._local.session_launchers import ForkLauncher, GuestLender
from slipway._local.session_state import Closed, Open, Opening
from slipway._model.arguments import open_stdin, read_source
from slipway._model.options import MACHINE_OPTIONS, build_options
from slipway._model.run_request import RunRequest
from slipway._model.session import AsyncSession, check_run_options
from slipway._run.slot import Slot
from slipway._util.errors import HostError, InputError
from slipway._util.identifiers import create_identifier
from slipway._util.threads import run_shielded

if TYPE_CHECKING:
    from slipway._local.session_context import SessionContext, SessionSpec
    from slipway._local.session_state import SessionState
    from slipway._model.arguments import Source, Stdin
    from slipway._run.guest import Guest
    from slipway._run.job_request import JobRequest

# How many runs of one session may wait for their turn.
QUEUE = 64


class LocalSession(AsyncSession):
    """Session with a slot among the runs of the runtime.

    One task, ``_life``, opens the session, waits for its end, and releases the machine. Each run
    has a slot as well, whose launcher lends the guest in turn.
    """

    def __init__(
        self, context: SessionContext, spec: SessionSpec, slot: Slot | None = None
    ) -> None:
        """``slot`` is given for a fork."""
        super().__init__(create_identifier(), spec.language.name)
        self._context = context
        self._spec = spec
        self._slot = slot or Slot(context.slots, spec.language, spec.options, spec.share)
        # One run at a time, in the order in which they came.
        turns = Admission(Capacity(1, sys.maxsize, sys.maxsize, QUEUE))
        assert context.slots.admission is not None
        lender = GuestLender(self._lend_guest, self._take_back, context.slots.admission)
        self._turns = replace(context.slots, launcher=lender, admission=turns)
        self._state: SessionState = Opening()
        # Set when the session is open, or will never be.
        self._opened = asyncio.Event()
        self._executions: set[LocalExecution] = set()
        self._forks: set[LocalSession] = set()
        self._life: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> str:
        """The state: opening, open, lost or ended; see :attr:`AsyncSession.state`."""
        return self._state.name

    @property
    def is_idle(self) -> bool:
        """True while the session is open and has neither runs nor forks under way."""
        return self.state == "open" and not self._executions and not self._forks

    # --- Life -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Wait for the machine; see :meth:`AsyncSession.open`."""
        if isinstance(self._state, Closed):
            raise self._state.build_error()
        if self._life is None:
            self._context.check_open()
            self._context.sessions.add(self)
            self._life = asyncio.create_task(
                self._hold_machine(), name=f"slipway-session-{self.id}"
            )
            self._life.add_done_callback(self._leave)
        try:
            await self._opened.wait()
        except asyncio.CancelledError:
            await self.close()
            raise
        state = self._state
        if isinstance(state, Closed):
            raise state.cause or state.build_error()

    async def _hold_machine(self) -> None:
        """Open the session, wait for its end, and release the machine; the task is cancelled."""
        try:
            await self._slot.find_if_built()
            self._slot.enter()
            await self._slot.wait_admitted()
            guest = await self._slot.launch()
        except Exception as error:  # a bug as well: open() raises it
            message = f"the session could not be opened: {error}"
            self._set_closed(Closed("ended", InputError, message, cause=error))
            return
        try:
            if not isinstance(self._state, Closed):
                if guest.network is not None:
                    self._ports = guest.network.ports
                self._state = Open(guest, guest.start_info)
                self._opened.set()
                self._restart_timer()
                await self._watch_machine(guest)
        finally:
            await run_shielded(self._slot.release(guest))

    async def _watch_machine(self, guest: Guest) -> None:
        """Return when the machine has ended between two runs, with the session lost."""
        await guest.machine.wait()
        if not guest.idle:
            # The run that is under way fails, and its launcher loses the session.
            await asyncio.get_running_loop().create_future()
        words = await guest.machine.read_exit_report()
        suffix = f" ({words})" if words else ""
        self._set_closed(_build_loss(f"its machine ended by itself{suffix}"))

    def _leave(self, _life: asyncio.Task[None]) -> None:
        """Leave the slot and the runtime; a cancelled task may not even have begun."""
        self._set_closed(_build_loss("its event loop has ended"))
        self._slot.leave()
        self._context.sessions.discard(self)
        self._opened.set()

    # --- Runs -------------------------------------------------------------------------------

    async def start(
        self,
        source: Source,
        *,
        stdin: Stdin | None = b"",
        **options: Any,
    ) -> LocalExecution:
        """Start ``source``, or queue the run; see :meth:`AsyncSession.start`."""
        self._check_open()
        check_run_options(options)
        checked = build_options(options)
        opened = open_stdin(stdin)
        text = await read_source(source)
        return await self.start_request(RunRequest(text, "", checked, opened))

    async def start_request(self, request: RunRequest) -> LocalExecution:
        """Start a request with checked options, or queue it; errors are those of :meth:`start`.

        Options of the machine are those of the session.
        """
        self._check_open()
        machine = {name: getattr(self._spec.options, name) for name in MACHINE_OPTIONS}
        request = replace(request, options=replace(request.options, **machine))
        job, pipe = build_job(self._spec.language, request, keep_files=True)
        slot = self._build_turn(job)
        slot.find()
        execution = LocalExecution(job, slot, pipe)
        execution.begin()
        self._executions.add(execution)
        self._restart_timer()
        execution.call_when_ended(self._forget_execution)
        return execution

    def _forget_execution(self, execution: LocalExecution) -> None:
        self._executions.discard(execution)
        self._restart_timer()

    def _check_open(self) -> Guest:
        """Check that the session can be used, and return its guest.

        Raises:
            Busy: the runtime is being closed.
            InputError: the session is not open.
            HostError: the machine was lost, or had no run for too long.
        """
        self._context.check_open()
        return self._find_open().guest

    def _find_open(self) -> Open:
        """Return the state of an open session.

        Raises:
            SlipwayError: the session has ended, was lost, or is not open yet.
        """
        state = self._state
        if isinstance(state, Closed):
            raise state.build_error()
        if isinstance(state, Opening):
            raise InputError(
                "the session is not open", "Use it as a context manager, or open() it first."
            )
        return state

    def _lend_guest(self) -> Guest:
        """Return the guest for a run.

        Raises:
            SlipwayError: the session is closed.
        """
        state = self._find_open()
        state.guest.mark_taken(state.start_info)
        self._state = state.count_run()
        return state.guest

    async def _take_back(self, guest: Guest) -> None:
        """Take back the guest after a run; lose the session if the run has not ended."""
        if not guest.idle:
            await self._lose("its machine failed during a run, or did not end the run in time")
        elif self.state == "open" and self._slot.is_wanted:
            self.give_way()

    # --- Forks ------------------------------------------------------------------------------

    async def fork(self) -> LocalSession:
        """Open a session that continues from this session; see :meth:`AsyncSession.fork`."""
        self._check_open()
        launcher = ForkLauncher(self._clone_guest)
        fork = LocalSession(self._context, self._spec, self._slot.for_fork(launcher))
        self._forks.add(fork)
        self._restart_timer()
        try:
            await fork.open()
        finally:
            self._forks.discard(fork)
            self._restart_timer()
        return fork

    async def _clone_guest(self) -> Guest:
        """Clone the guest when the turn comes. Runs in a task of the fork's."""
        turn = self._build_turn()
        turn.enter()
        try:
            await turn.wait_admitted()
            return await clone_between_jobs(
                self._check_open(), wanted=lambda: self.state == "open", lose=self._lose
            )
        finally:
            turn.leave()

    def _build_turn(self, job: JobRequest | None = None) -> Slot:
        spec = self._spec
        options, check = spec.options, None
        if job is not None:
            options, check = job.options, job.check_room
        return Slot(self._turns, spec.language, options, check=check, assets=self._slot.assets)

    # --- End --------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the session and all runs in the session; see :meth:`AsyncSession.close`."""
        self._set_closed(Closed("ended", InputError, "the session has been closed"))

        async def end_all() -> None:
            await asyncio.gather(*(execution.cancel() for execution in list(self._executions)))
            # A fork that still waits for this machine ends with it.
            await asyncio.gather(self._end_life(), *(fork.close() for fork in list(self._forks)))

        await run_shielded(end_all())

    async def drain(self) -> None:
        """Wait for the end of the session's runs, and close it."""
        while self._executions:
            await asyncio.gather(*(execution.wait_ended() for execution in self._executions))
        await self.close()

    async def _lose(self, why: str) -> None:
        """Release a machine that cannot be used. Runs in the queue fail, each in its turn."""
        self._set_closed(_build_loss(why))
        await run_shielded(self._end_life())

    async def _end_life(self) -> None:
        """End the session's task, which releases the machine, and wait for that."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
            if not self._life.cancelled():
                self._life.result()

    def _set_closed(self, closed: Closed) -> None:
        """Take no more runs, for the first reason that is given; a lost session can be ended."""
        if not isinstance(self._state, Closed):
            self._state = closed
        elif closed.name == "ended":
            self._state = replace(self._state, name="ended")
        self._restart_timer()

    def _restart_timer(self) -> None:
        """Start the idle time anew if the session is open and has nothing to do, else stop it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_idle:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._spec.idle_seconds, self._expire)
        self._slot.set_idle(self.give_way if self.is_idle else None)

    def _expire(self) -> None:
        """End a session that has neither runs nor forks: close() would have none to cancel."""
        message = f"the session has ended: it had no run for {self._spec.idle_seconds:g} s"
        self._end(message, "Open another, with a longer idle time (idle_seconds).")

    def give_way(self) -> None:
        """End a session between two runs, for another share. Runs in its queue fail."""
        message = (
            "the session has ended: another user or key, with fewer machines, needed its machine"
        )
        self._end(message, "Open another; it opens when there is room.")

    def _end(self, message: str, hint: str) -> None:
        assert self._life is not None
        self._set_closed(Closed("ended", HostError, message, hint))
        self._life.cancel()


def _build_loss(why: str) -> Closed:
    return Closed("lost", HostError, f"the session is lost: {why}")
