"""Warm clones of one open template: forks of a clone that has run the language's sample.

Only the processes of QEMU have a use for them, and some hosts cannot make them. Clones are then
made as without this part, for this reason.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from slipway._run.guest import Guest
from slipway._run.start_info import StartInfo
from slipway._snapshots.clone_network import open_clone_network
from slipway._util.errors import SlipwayError
from slipway._util.memory import read_unshared_bytes
from slipway._util.threads import run_shielded

if TYPE_CHECKING:
    from slipway._admission.admission import Admission
    from slipway._run.assets import Assets
    from slipway._snapshots.key import SnapshotKey
    from slipway.machine.model import Template, WarmTemplate

log = logging.getLogger("slipway.pool")

# Failures in a row after which the warm template is closed. Those of clones that were under way at
# the same time count once: a moment without processor time fails all of them.
MAX_FAILURES = 3
# Seconds until a new one is tried; doubled each time, until a warm clone has answered.
FIRST_PAUSE = 60.0
LONGEST_PAUSE = 3600.0


class WarmClones:
    """Warm template of one open template, and what becomes of failures.

    A refusal by the host is final. After the end of the warm template, or after ``MAX_FAILURES``
    clones in a row that were lost or did not answer, a new one is tried later. ``reserved`` bytes
    of the memory for runs belong to the warm template.
    """

    def __init__(self, template: Template, admission: Admission) -> None:
        self._template = template
        self._admission = admission
        self._warm: WarmTemplate | None = None
        self._lock = asyncio.Lock()
        # True if no warm template will be tried any more.
        self._is_over = False
        # Reason why the last one could not be made, or was closed.
        self._reason = ""
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._retry_at = 0.0
        self.reserved = 0

    @property
    def is_due(self) -> bool:
        """True if :meth:`prepare` would try to create a warm template now."""
        return self._is_wanted and not self._lock.locked()

    @property
    def _is_wanted(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._warm is None and not self._is_over and now >= self._retry_at

    async def prepare(self, assets: Assets) -> None:
        """Create the warm template, if it is due, memory is left and the machine has any.

        A failure is kept as a reason, and is no error.
        """
        async with self._lock:
            needed = assets.hypervisor.idle_memory
            if not self._is_wanted or not self._admission.reserve(needed):
                return  # at a later call
            self.reserved = needed
            try:
                self._warm = await self._start(assets)
            except SlipwayError as error:
                self._postpone(error.message)
            else:
                if self._warm is None:
                    self._is_over = True
            finally:
                used = 0
                if self._warm is not None:
                    used = min(needed, read_unshared_bytes(self._warm.machine.pid, needed))
                self.reserved = used
                self._admission.free(needed - used)

    async def _start(self, assets: Assets) -> WarmTemplate | None:
        """Return a warm template, whose agent was greeted and has run the sample.

        Raises:
            SlipwayError: the clone cannot be made or forked, or the sample fails.
        """
        warm = await self._template.start_warm_template()
        if warm is None:
            return None
        async with AsyncExitStack() as on_failure:
            on_failure.push_async_callback(_close, warm)
            guest = Guest(warm.machine)
            await guest.adopt_clone()
            await guest.rehearse(assets.language)
            try:
                await warm.freeze()
            except SlipwayError:
                self._note_refusal(warm)
                raise
            on_failure.pop_all()
        return warm

    async def clone(self, key: SnapshotKey, machine_reason: str) -> Guest | str:
        """Return a warm clone whose agent is ready, or the reason why there is none.

        The reason is empty while no warm clone is to be expected. ``machine_reason`` is for the
        provenance of runs.

        Raises:
            HostError: this process has too many descriptors for a network.
        """
        warm, failures = self._warm, self._failures
        if warm is None:
            return self._reason
        async with AsyncExitStack() as on_failure:
            network, link = open_clone_network(key, on_failure)
            try:
                machine = await warm.clone(network=link)
                guest = Guest(machine, StartInfo("warm", "", machine_reason), network)
                await on_failure.enter_async_context(guest)
                await guest.adopt_clone()
            except SlipwayError as error:
                await self._count_failure(warm, failures, error.message)
                return error.message
            guest.is_rehearsed = True
            self._failures, self._pause = 0, FIRST_PAUSE
            on_failure.pop_all()
        return guest

    async def _count_failure(self, warm: WarmTemplate, failures: int, reason: str) -> None:
        """Count the failure of a clone of ``warm``, before which ``failures`` were counted."""
        if warm is not self._warm:
            return  # another failure has closed it
        if failures == self._failures:
            self._failures += 1
        if warm.refusal or warm.has_ended or self._failures >= MAX_FAILURES:
            self._note_refusal(warm)
            self._postpone(reason)
            await self._close_warm_template()
        else:
            log.warning("a warm clone failed: %s", reason)

    def _note_refusal(self, warm: WarmTemplate) -> None:
        if warm.refusal:
            self._is_over = True

    def _postpone(self, reason: str) -> None:
        """Try the next warm template after a pause, unless the host refuses."""
        self._reason, self._failures = reason, 0
        if self._is_over:
            log.warning("no warm clones: %s", reason)
            return
        log.warning("no warm clones for %g s: %s", self._pause, reason)
        self._retry_at = asyncio.get_running_loop().time() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def close(self) -> None:
        """Close the warm template for good. Its clones continue. May be called again."""
        self._is_over = True
        async with self._lock:  # one may be under way
            await self._close_warm_template()

    async def _close_warm_template(self) -> None:
        warm, self._warm = self._warm, None
        self._admission.free(self.reserved)
        self.reserved = 0
        if warm is not None:
            await _close(warm)


async def _close(warm: WarmTemplate) -> None:
    await run_shielded(warm.close())
