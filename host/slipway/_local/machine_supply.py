"""Where a runtime's machines come from, and the languages that it keeps warm."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from slipway._model.errors import InputError, SlipwayError
from slipway._model.options import Options
from slipway._run.languages import find_language
from slipway._run.launcher import ColdLauncher

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipway._admission import Admission
    from slipway._run.launcher import Launcher
    from slipway._run.slot import SlotContext
    from slipway._snapshots.pool import Pool
    from slipway._snapshots.templates import TemplateCache
    from slipway_initramfs.languages.language import Language
    from slipway_initramfs.store.image_store import ImageStore

log = logging.getLogger("slipway.runtime")


class MachineSupply:
    """The launcher of a runtime, and what it keeps ready."""

    launcher: Launcher

    def __init__(self) -> None:
        self._templates: TemplateCache | None = None
        self._pool: Pool | None = None
        self._warm: tuple[Language, ...] = ()
        self._warming: asyncio.Task[None] | None = None

    @classmethod
    def from_launcher(cls, launcher: Launcher) -> MachineSupply:
        """What somebody else's launcher has; nothing is kept ready."""
        supply = cls()
        supply.launcher = launcher
        return supply

    @classmethod
    def from_store(
        cls,
        store: ImageStore,
        admission: Admission,
        *,
        pool: int = 0,
        cold: bool = False,
        warm: Iterable[str] = (),
    ) -> MachineSupply:
        """Machines from the images and snapshots of ``store``; see :class:`AsyncRuntime`.

        Raises:
            InputError: the arguments do not fit together, or there is no such language.
        """
        supply = cls()
        supply._warm = tuple(find_language(name, store) for name in warm)
        if cold and (pool or supply._warm):
            raise InputError(
                "machines that boot for each run do not wait in a pool",
                "Leave out cold, or pool and warm.",
            )
        if supply._warm and not pool:
            raise InputError("warm languages need a pool", "Give pool=1 or more.")
        if cold:
            supply.launcher = ColdLauncher(store)
            return supply
        from slipway._snapshots.launcher import SnapshotLauncher
        from slipway._snapshots.templates import TemplateCache

        supply._templates = TemplateCache(store, admission)
        if pool:
            from slipway._snapshots.pool import Pool

            supply._pool = Pool(store, supply._templates, admission, pool)
        supply.launcher = SnapshotLauncher(store, supply._templates, supply._pool)
        return supply

    @property
    def idle(self) -> int:
        """How many clones wait."""
        return self._pool.idle if self._pool is not None else 0

    def begin(self, slots: SlotContext, machine: str) -> None:
        """Begin to have clones ready of the warm languages on ``machine``, if nobody has yet."""
        if self._warm and self._warming is None:
            self._warming = asyncio.create_task(self._warm_up(slots, Options(machine=machine)))

    async def close(self) -> None:
        """End all that waits and is being made; machines that runs have are theirs."""
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.wait([self._warming])
        if self._pool is not None:
            await self._pool.close()
        if self._templates is not None:
            await self._templates.close()

    async def _warm_up(self, slots: SlotContext, options: Options) -> None:
        for language in self._warm:
            try:
                await self._warm_one(language, slots, options)
            except SlipwayError as error:
                log.warning("%s cannot be kept warm: %s", language.name, error.message)

    async def _warm_one(self, language: Language, slots: SlotContext, options: Options) -> None:
        assert self._pool is not None
        assert self._templates is not None
        assert slots.builds is not None
        if not await asyncio.to_thread(slots.images.is_built, language):
            await slots.builds.ensure_built(language, _tell)
        assets = await asyncio.to_thread(slots.images.find, language, options, _tell)
        from slipway._snapshots.key import NoSnapshot

        try:
            key = self._templates.key_of(assets, options)
        except NoSnapshot as error:
            log.warning("%s cannot be kept warm: %s", language.name, error.reason)
        else:
            self._pool.prewarm(key, assets, options)


def _tell(line: str) -> None:
    log.info("%s", line)
