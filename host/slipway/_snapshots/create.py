"""Making templates: a machine is booted, warmed, stopped, and tried before it is kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from slipway._model.errors import HostError
from slipway._run.guest import Guest
from slipway._run.launcher import ColdLauncher
from slipway._snapshots.key import NoSnapshot, Shape, check_clonable
from slipway._snapshots.store import SnapshotStore
from slipway._util.threads import run_shielded

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets, Progress
    from slipway._snapshots.store import StoredSnapshot
    from slipway.machine.model import Snapshot
    from slipway_initramfs.store.image_store import ImageStore


def make_snapshot(
    assets: Assets, options: Options, store: ImageStore, progress: Progress
) -> StoredSnapshot:
    """Make the snapshot of a machine that runs what ``assets`` are, and keep it in ``store``.

    Raises:
        HostError: this host cannot run such a machine, or not clone it.
        ImageError: the language's sample program fails, or the disk is full.
    """
    return asyncio.run(make(assets, options, store, progress))


async def make(
    assets: Assets, options: Options, store: ImageStore, progress: Progress
) -> StoredSnapshot:
    """Do what :func:`make_snapshot` does. Cancelled, it leaves no machine and no open file."""
    try:
        check_clonable(assets, options)
    except NoSnapshot as error:
        raise HostError(f"no snapshot can be made: {error.reason}") from None
    shape = Shape.of(assets, options.cpus)
    snapshot = await take(assets, options, store, progress)
    try:
        # The thread goes on with the files, whoever is cancelled.
        return await run_shielded(asyncio.to_thread(SnapshotStore(store).save, shape, snapshot))
    finally:
        snapshot.close()


async def take(assets: Assets, options: Options, store: ImageStore, progress: Progress) -> Snapshot:
    """The snapshot of a machine that is ready and warm, and of which a clone has been tried.

    Raises:
        HostError, ImageError: as :func:`make_snapshot` does.
    """
    progress(f"making a snapshot of {assets.image.name}: booting it")
    guest = await ColdLauncher(store).launch(assets, options, template=True)
    try:
        progress(f"making a snapshot of {assets.image.name}: running its sample program")
        await guest.run_sample(assets.language)
        snapshot = await guest.machine.snapshot()
    except BaseException:
        await run_shielded(guest.stop())
        raise
    compiled = assets.language.build is not None
    try:
        await run_shielded(guest.stop())
        progress(f"making a snapshot of {assets.image.name}: trying a clone")
        template = await assets.hypervisor.open_template(snapshot.duplicate())
        try:
            clone = Guest(await template.clone())
            try:
                await clone.adopt_clone()
                if not compiled:
                    await clone.run_sample(assets.language)
                # Not what a compiler touches: clones that wait would all have that.
                snapshot = await clone.machine.record_working_set(snapshot)
                if compiled:
                    await clone.run_sample(assets.language)
            finally:
                await run_shielded(clone.stop())
        finally:
            await run_shielded(template.close())
    except BaseException:
        snapshot.close()
        raise
    return snapshot
