"""Machines that do not boot: clones of a snapshot where there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._run.image_errors import errors_told_to_callers
from slipway._run.launcher import ColdLauncher
from slipway._util.threads import uninterrupted

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets, Progress
    from slipway._run.guest import Guest
    from slipway._snapshots.pool import Pool
    from slipway._snapshots.templates import Templates
    from slipway_initramfs.languages import Language
    from slipway_initramfs.store import ImageStore


class SnapshotLauncher:
    """Takes a clone of ``pool``, else makes one, else boots; a run says which it was, and why.

    Without ``templates`` it opens its own, for the few runs of one user.
    """

    def __init__(
        self, store: ImageStore, templates: Templates | None = None, pool: Pool | None = None
    ) -> None:
        self._store = store
        self._cold = ColdLauncher(store)
        self._templates = templates
        self._own = templates is None
        self._pool = pool

    def find(
        self, language: Language, options: Options, progress: Progress, *, repair: bool = False
    ) -> Assets:
        """Find them in the store; see :meth:`Launcher.find`."""
        return self._cold.find(language, options, progress, repair=repair)

    def is_built(self, language: Language) -> bool:
        """Whether image and kernel are in the store."""
        return self._cold.is_built(language)

    def overhead(self, options: Options) -> int:
        """That of a machine that boots, which is the most; see :meth:`Launcher.overhead`."""
        return self._cold.overhead(options)

    async def launch(self, assets: Assets, options: Options) -> Guest:
        """Clone, or boot; see :meth:`Launcher.launch`."""
        if self._templates is None:
            from slipway._snapshots.key import reason_against
            from slipway._snapshots.store import KIND

            # What a clone needs is imported where there is something to clone.
            if reason := reason_against(assets, options):
                return await self._cold.launch(assets, options, reason)
            with errors_told_to_callers():
                there_are_some = bool(self._store.names(KIND))
            if not there_are_some:
                return await self._cold.launch(assets, options, "there is no snapshot")
            from slipway._snapshots.templates import Templates

            self._templates = Templates(self._store)
        try:
            return await self._cloned(self._templates, assets, options)
        except BaseException:  # there will be no release
            if self._own:
                await uninterrupted(self._templates.close())
            raise

    async def _cloned(self, templates: Templates, assets: Assets, options: Options) -> Guest:
        shape = templates.shape(assets, options)
        if isinstance(shape, str):
            return await self._cold.launch(assets, options, shape)
        if self._pool is not None and (guest := await self._pool.take(shape, assets, options)):
            return guest
        found = await templates.clone(shape, assets, options)
        if isinstance(found, str):
            return await self._cold.launch(assets, options, found)
        if self._pool is not None:
            found.origin = replace(found.origin, start_reason="no clone waited in the pool")
        return found

    async def release(self, guest: Guest) -> None:
        """End it; a template that nobody else has was opened for it alone."""
        try:
            await guest.stop()
        finally:
            if self._own and self._templates is not None:
                await self._templates.close()
