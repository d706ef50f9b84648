"""Launcher of machines by clone: from the pool, from a snapshot, else by a boot."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._run.image_errors import translated_image_errors
from slipway._run.launcher import ColdLauncher
from slipway._snapshots.key import NoSnapshot, check_clonable
from slipway._util.threads import run_shielded

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._run.booters import Booters
    from slipway._run.guest import Guest
    from slipway._snapshots.pool import Pool
    from slipway._snapshots.templates import TemplateCache
    from slipway_initramfs.store.image_store import ImageStore


class SnapshotLauncher:
    """Launcher that takes an idle clone of ``pool``, else makes a clone, else boots.

    ``Guest.start_info`` says which, and why. Without ``templates`` the launcher opens a cache for
    the one run of a command line, and closes it with the guest.
    """

    def __init__(
        self,
        store: ImageStore,
        templates: TemplateCache | None = None,
        pool: Pool | None = None,
        booters: Booters | None = None,
    ) -> None:
        self._store = store
        self._cold = ColdLauncher(store, booters)
        self._templates = templates
        self._own = templates is None
        self._pool = pool

    async def launch(self, assets: Assets, options: Options) -> Guest:
        """Return a guest whose agent is ready; see :meth:`Launcher.launch`."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._close_own_templates)
            try:
                guest = await self._clone(assets, options)
            except NoSnapshot as error:
                guest = await self._cold.launch(assets, options, error.reason)
            else:
                if options.network is not None:
                    undo.push_async_callback(guest.stop)
                    await guest.start_gateway(options.network)
            undo.pop_all()
            return guest

    async def release(self, guest: Guest) -> None:
        """Stop the guest, and close the templates that were opened for this run."""
        try:
            await guest.stop()
        finally:
            await self._close_own_templates()

    async def _clone(self, assets: Assets, options: Options) -> Guest:
        """Return an idle clone of the pool, else a new clone.

        Raises:
            NoSnapshot: the store has no snapshot for the machine, or the host no room for it.
        """
        templates = self._templates or self._open_templates(assets, options)
        key = templates.key_of(assets, options)
        if self._pool is not None and (guest := await self._pool.take(key, assets, options)):
            return guest
        guest = await templates.clone(key, assets, options)
        if self._pool is not None:
            reasons = ("no idle clone in the pool", guest.start_info.start_reason)
            why = "; ".join(filter(None, reasons))
            guest.start_info = replace(guest.start_info, start_reason=why)
        return guest

    def _open_templates(self, assets: Assets, options: Options) -> TemplateCache:
        """Open templates for one run.

        Raises:
            NoSnapshot: the store has no snapshot for the machine, or the run has its own kernel.
        """
        from slipway._snapshots.record import KIND

        check_clonable(assets, options)
        with translated_image_errors():
            names = self._store.names(KIND)
        if not names:
            raise NoSnapshot("no matching snapshot")
        # Modules for clones take time to import; a store without snapshots does not need them.
        from slipway._snapshots.templates import TemplateCache

        self._templates = TemplateCache(self._store)
        return self._templates

    async def _close_own_templates(self) -> None:
        if self._own and self._templates is not None:
            await run_shielded(self._templates.close())
