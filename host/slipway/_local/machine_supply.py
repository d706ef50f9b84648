"""Supply of machines of a runtime: launcher, pool, and languages to prewarm."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from slipway._run.booters import Booters
from slipway._run.languages import find_language
from slipway._run.launcher import ColdLauncher
from slipway._run.slot import Slot
from slipway._util.errors import SlipwayError

if TYPE_CHECKING:
    from slipway._admission.admission import Admission
    from slipway._model.options import Options
    from slipway._run.launcher import Launcher
    from slipway._run.slot import SlotContext
    from slipway._snapshots.pool import Pool
    from slipway._snapshots.pool_options import PoolOptions
    from slipway._snapshots.templates import TemplateCache
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore

log = logging.getLogger("slipway.runtime")


class MachineSupply:
    """Launcher of a runtime, with the booters, template cache and pool behind it."""

    def __init__(
        self,
        launcher: Launcher,
        templates: TemplateCache | None = None,
        pool: Pool | None = None,
        warm: tuple[Language, ...] = (),
        booters: Booters | None = None,
    ) -> None:
        self.launcher = launcher
        self._booters = booters
        self._templates = templates
        self._pool = pool
        self._warm = warm
        self._warming: asyncio.Task[None] | None = None

    @classmethod
    def from_store(
        cls, store: ImageStore, admission: Admission, options: PoolOptions
    ) -> MachineSupply:
        """Return a supply of machines from the images and snapshots of ``store``.

        Raises:
            InputError: ``options`` exclude each other, or name an unknown language.
        """
        warm = tuple(find_language(name, store) for name in options.warm)
        options.check()
        booters = Booters(admission)
        if options.cold:
            return cls(ColdLauncher(store, booters), booters=booters)
        from slipway._snapshots.launcher import SnapshotLauncher
        from slipway._snapshots.templates import TemplateCache

        templates = TemplateCache(store, admission)
        pool = None
        if options.pool:
            from slipway._snapshots.pool import Pool

            pool = Pool(store, templates, admission, options.pool, options.snapshot_budget)
        launcher = SnapshotLauncher(store, templates, pool, booters)
        return cls(launcher, templates, pool, warm, booters)

    @property
    def idle(self) -> int:
        """Number of idle clones in the pool."""
        return self._pool.idle if self._pool is not None else 0

    def prewarm(self, slots: SlotContext, options: Options) -> None:
        """Start to prewarm the warm languages, at the first call.

        ``options`` has the hypervisor and the architecture of the clones.
        """
        if self._warm and self._warming is None:
            self._warming = asyncio.create_task(self._prewarm_all(slots, options))

    async def close(self) -> None:
        """End idle clones, templates and booters. Machines of runs continue."""
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.wait([self._warming])
        if self._pool is not None:
            await self._pool.close()
        if self._templates is not None:
            await self._templates.close()
        if self._booters is not None:
            await self._booters.close()

    async def _prewarm_all(self, slots: SlotContext, options: Options) -> None:
        for language in self._warm:
            try:
                await self._prewarm_language(language, slots, options)
            except SlipwayError as error:
                log.warning("cannot prewarm %s: %s", language.name, error.message)

    async def _prewarm_language(
        self, language: Language, slots: SlotContext, options: Options
    ) -> None:
        assert self._pool is not None
        assert self._templates is not None
        slot = Slot(slots, language, options)
        slot.progress = _log_progress
        await slot.find_if_built()
        await slot.build_missing()
        from slipway._snapshots.key import NoSnapshot

        try:
            key = self._templates.key_of(slot.assets, options)
        except NoSnapshot as error:
            log.warning("cannot prewarm %s: %s", language.name, error.reason)
        else:
            self._pool.prewarm(key, slot.assets, options)


def _log_progress(line: str) -> None:
    log.info("%s", line)
