"""Warm clones of one open template: forks of a clone that has run the language's sample.

Only the processes of QEMU have a use for them, and some hosts cannot make them. A failure is kept
as the reason, and clones are made as without this part.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from slipway._run.guest import Guest
from slipway._util.errors import SlipwayError
from slipway._util.memory import read_unshared_bytes
from slipway._util.threads import run_shielded

if TYPE_CHECKING:
    from slipway._admission import Admission
    from slipway._run.assets import Assets
    from slipway.machine.model import Machine, Template, WarmTemplate

log = logging.getLogger("slipway.pool")


class WarmClones:
    """Warm template of one open template, and the reason if it has failed.

    ``failure`` is empty, or says why no more warm clones are made; ``reserved`` bytes of the memory
    for runs belong to the warm template.
    """

    def __init__(self, template: Template, admission: Admission) -> None:
        self._template = template
        self._admission = admission
        self._warm: WarmTemplate | None = None
        self._lock = asyncio.Lock()
        self._is_tried = False
        self.failure = ""
        self.reserved = 0

    @property
    def is_ready(self) -> bool:
        """True if :meth:`clone` can make a clone."""
        return self._warm is not None

    async def prepare(self, assets: Assets) -> None:
        """Create the warm template, at the first call, if memory is left and the machine has any.

        A failure is kept, and is no error.
        """
        async with self._lock:
            if self._is_tried:
                return
            if not self._admission.reserve(needed := assets.hypervisor.idle_memory):
                return  # at a later call
            self._is_tried = True
            self.reserved = needed
            try:
                self._warm = await self._start(assets)
            except SlipwayError as error:
                self._keep_failure(error.message)
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
            await warm.freeze()
            on_failure.pop_all()
        return warm

    async def clone(self, network: int | None) -> Machine:
        """Return a fork of the warm template.

        Raises:
            HostError: the clone cannot be made; :meth:`give_up` follows.
        """
        assert self._warm is not None
        return await self._warm.clone(network=network)

    async def give_up(self, reason: str) -> None:
        """Make no more warm clones, for ``reason``. Those that exist continue."""
        self._keep_failure(reason)
        await self.close()

    def _keep_failure(self, reason: str) -> None:
        if not self.failure:
            log.warning("no warm clones: %s", reason)
            self.failure = reason

    async def close(self) -> None:
        """Close the warm template, if created. Its clones continue. May be called again."""
        async with self._lock:
            self._is_tried = True
            warm, self._warm = self._warm, None
            self._admission.free(self.reserved)
            self.reserved = 0
        if warm is not None:
            await _close(warm)


async def _close(warm: WarmTemplate) -> None:
    await run_shielded(warm.close())
