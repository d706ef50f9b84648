"""Sessions in machines of this process."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from slipway._admission import Admission, Capacity
from slipway._local.execution import LocalExecution, request_job
from slipway._local.session_fork import clone_between_jobs
from slipway._local.session_launchers import ForkLauncher, GuestLender
from slipway._model.arguments import open_stdin, read_source
from slipway._model.options import MACHINE_OPTIONS, build_options
from slipway._model.session import AsyncSession, check_run_options
from slipway._run.slot import Slot
from slipway._util.errors import HostError, InputError, SlipwayError
from slipway._util.identifiers import create_identifier
from slipway._util.threads import run_shielded

if TYPE_CHECKING:
    from slipway._local.session_context import SessionContext, SessionSpec
    from slipway._model.arguments import Source, Stdin
    from slipway._run.guest import Guest
    from slipway._run.job_request import JobRequest

# How many runs of one session may wait for their turn.
QUEUE = 64


@dataclass(frozen=True, slots=True)
class _Closed:
    """Reason why a session takes no more runs; ``state`` is ``lost`` or ``ended``."""

    state: str
    kind: type[HostError | InputError]
    message: str
    hint: str = "Open another."

    def build_error(self) -> SlipwayError:
        """Build an error for one caller; tasks cannot share a traceback."""
        return self.kind(self.message, self.hint)


class LocalSession(AsyncSession):
    """Session with a slot among the runs of the runtime.

    The session is opening without a guest, open with a guest, and closed for the reason in
    ``_closed``. Each run has a slot as well, whose launcher lends the guest in turn.
    """

    def __init__(
        self, context: SessionContext, spec: SessionSpec, slot: Slot | None = None
    ) -> None:
        """``slot`` is given for a fork."""
        super().__init__(create_identifier(), spec.language.name)
        self._context = context
        self._spec = spec
        self._slot = slot or Slot(context.slots, spec.language, spec.options, spec.key)
        # One run at a time, in the order in which they came.
        turns = Admission(Capacity(1, sys.maxsize, sys.maxsize, QUEUE))
        lender = GuestLender(self._lend_guest, self._take_back)
        self._turns = replace(context.slots, launcher=lender, admission=turns)
        self._guest: Guest | None = None
        self._closed: _Closed | None = None
        self._had_run = False
        self._executions: set[LocalExecution] = set()
        self._forks: set[LocalSession] = set()
        self._opening: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._teardown: asyncio.Task[None] | None = None
        self._expiry: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> str:
        """The state: opening, open, lost or ended; see :attr:`AsyncSession.state`."""
        if self._closed is not None:
            return self._closed.state
        return "opening" if self._guest is None else "open"

    # --- Opening ----------------------------------------------------------------------------

    async def open(self) -> None:
        """Wait for the machine; see :meth:`AsyncSession.open`."""
        if self._closed is not None:
            raise self._closed.build_error()
        if self._opening is None:
            self._context.check_open()
            self._context.sessions.add(self)
            self._opening = asyncio.create_task(self._launch(), name=f"slipway-open-{self.id}")
        try:
            await asyncio.wait([self._opening])
        except asyncio.CancelledError:
            await self.close()
            raise
        if not self._opening.cancelled() and (error := self._opening.exception()) is not None:
            raise error
        if self._closed is not None:
            raise self._closed.build_error()

    async def _launch(self) -> None:
        try:
            await self._slot.find_if_built()
            self._slot.enter()
            await self._slot.wait_admitted()
            self._guest = await self._slot.launch()
        except BaseException as error:  # close() cancels this task
            message = f"the session could not be opened: {error}"
            self._end(_Closed("ended", InputError, message))
            self._leave_slot()
            raise
        if self._closed is None:
            self._watch = asyncio.create_task(self._watch_machine(self._guest))
            self._restart_timer()

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
        machine = {name: getattr(self._spec.options, name) for name in MACHINE_OPTIONS}
        checked = build_options({**options, **machine})
        opened = open_stdin(stdin)
        text = await read_source(source)
        self._check_open()
        job, pipe = request_job(self._spec.language, text, checked, opened, keep_files=True)
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
        if self._closed is not None:
            raise self._closed.build_error()
        if self._guest is None:
            raise InputError(
                "the session is not open", "Use it as a context manager, or open() it first."
            )
        return self._guest

    def _lend_guest(self) -> Guest:
        """Return the guest for a run.

        Raises:
            SlipwayError: the session is closed.
        """
        from slipway._run.start_info import StartInfo

        if self._closed is not None:
            raise self._closed.build_error()
        assert self._guest is not None
        start_info = self._guest.start_info
        if self._had_run:
            start_info = StartInfo("session", "", start_info.machine_reason)
        self._guest.mark_taken(start_info)
        self._had_run = True
        return self._guest

    async def _take_back(self, guest: Guest) -> None:
        """Take back the guest after a run; lose the session if the run has not ended."""
        if not guest.idle:
            await self._lose("its machine failed during a run, or did not end the run in time")

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
                self._check_open(), wanted=lambda: self._closed is None, lose=self._lose
            )
        finally:
            turn.leave()

    def _build_turn(self, job: JobRequest | None = None) -> Slot:
        spec = self._spec
        check = job.check_room if job is not None else None
        return Slot(self._turns, spec.language, spec.options, check=check, assets=self._slot.assets)

    # --- End --------------------------------------------------------------------------------

    async def close(self) -> None:
        """End the session and all runs in the session; see :meth:`AsyncSession.close`."""
        await self._close(_Closed("ended", InputError, "the session has been closed"))

    async def drain(self) -> None:
        """Wait for the end of the session's runs, and close it."""
        while self._executions:
            await asyncio.gather(*(execution.wait_ended() for execution in self._executions))
        await self.close()

    async def _close(self, reason: _Closed) -> None:
        """Cancel the runs, release the machine, and close the forks. May be called again."""
        reason = self._end(reason)

        async def end_all() -> None:
            if self._opening is not None and not self._opening.done():
                self._opening.cancel()
                await asyncio.wait([self._opening])
            await asyncio.gather(*(execution.cancel() for execution in list(self._executions)))
            # A fork that still waits for this machine ends with it.
            forks = [fork._close(reason) for fork in list(self._forks)]
            await asyncio.gather(self._tear_down(), *forks)

        await run_shielded(end_all())

    async def _lose(self, why: str) -> None:
        """Release a machine that cannot be used. Runs in the queue fail, each in its turn."""
        self._end(_Closed("lost", HostError, f"the session is lost: {why}"))
        await self._tear_down()

    def _end(self, reason: _Closed) -> _Closed:
        """Take no more runs, and return the reason for that: the first that was given."""
        if self._closed is None:
            self._closed = reason
        elif reason.state == "ended":  # a lost session is closed
            self._closed = replace(self._closed, state="ended")
        self._restart_timer()
        return self._closed

    async def _tear_down(self) -> None:
        """Release the machine and leave the slot, once, and wait for that."""
        if self._teardown is None:
            self._teardown = asyncio.create_task(self._release_guest())
        await run_shielded(_wait_for(self._teardown))

    async def _release_guest(self) -> None:
        guest, self._guest = self._guest, None
        try:
            if guest is not None:
                await self._slot.release(guest)
        finally:
            self._leave_slot()

    def _leave_slot(self) -> None:
        self._slot.leave()
        self._context.sessions.discard(self)

    async def _watch_machine(self, guest: Guest) -> None:
        """Lose the session when its machine ends between two runs."""
        await guest.machine.wait()
        if guest.idle and self._closed is None:
            words = await guest.machine.read_exit_report()
            await self._lose("its machine ended by itself" + (f" ({words})" if words else ""))

    def _restart_timer(self) -> None:
        """Start the idle time anew if the session is open and has nothing to do, else stop it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.state == "open" and not self._executions and not self._forks:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._spec.idle_seconds, self._expire)

    def _expire(self) -> None:
        reason = _Closed(
            "ended",
            HostError,
            f"the session has ended: it had no run for {self._spec.idle_seconds:g} s",
            "Open another, with a longer idle time (idle_seconds).",
        )
        self._expiry = asyncio.create_task(self._close(reason))


async def _wait_for(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
    task.result()
