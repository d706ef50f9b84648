"""Creation of snapshots: boot, warm-up, snapshot, and a trial clone before the snapshot is kept."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING

from slipway._run.guest import Guest
from slipway._run.guest_network import open_network
from slipway._run.launcher import ColdLauncher
from slipway._snapshots.creation_lock import hold_creation
from slipway._snapshots.key import NoSnapshot, SnapshotKey, check_clonable
from slipway._snapshots.store import SnapshotStore
from slipway._util.errors import HostError
from slipway._util.threads import run_shielded
from slipway.machine.model import PortKind

if TYPE_CHECKING:
    from slipway._model.options import Options
    from slipway._run.assets import Assets, Progress
    from slipway._snapshots.stored_snapshot import StoredSnapshot
    from slipway.machine.model import Snapshot
    from slipway_initramfs.store.image_store import ImageStore


async def create_sound_snapshot(
    assets: Assets, options: Options, store: ImageStore, progress: Progress, budget: int | None
) -> StoredSnapshot:
    """Create a snapshot as :func:`create_snapshot` does; a damaged image is built again, once.

    Raises:
        HostError, ImageError: as :func:`create_snapshot` does.
    """
    from slipway._run.images import StoredImages
    from slipway._run.slot import Slot, SlotContext

    context = SlotContext(StoredImages(store), ColdLauncher(store))
    slot = Slot(context, assets.language, options, assets=assets)
    slot.progress = progress
    return await slot.boot_sound(
        lambda assets: create_snapshot(assets, options, store, progress, budget)
    )


async def create_snapshot(
    assets: Assets,
    options: Options,
    store: ImageStore,
    progress: Progress,
    budget: int | None = None,
) -> StoredSnapshot:
    """Create the snapshot of a machine on ``assets``, and keep it in ``store``.

    If another process is creating the same snapshot, this waits for it and returns that one.
    ``budget`` is the disk space of all snapshots in bytes, by default that of
    :mod:`slipway._snapshots.budget`. A cancelled call leaves no machine and no open file.

    Raises:
        HostError: this host cannot run such a machine, or not clone it.
        ImageError: the language's sample program fails, the snapshot exceeds the budget, or the
            disk is full.
    """
    try:
        check_clonable(assets, options)
    except NoSnapshot as error:
        raise HostError(f"cannot create a snapshot: {error.reason}") from None
    key = SnapshotKey.of_run(assets, options)
    snapshots = SnapshotStore(store)
    async with hold_creation(store, key, progress) as has_waited:
        if has_waited and (found := snapshots.find(key)) is not None:
            return found
        # Before two boots: the snapshot has the whole root at least, which is in memory.
        snapshots.check_room(key, int(assets.image.manifest.get("memory", 0)), budget)
        with await capture_snapshot(assets, options, store, progress) as snapshot:
            # The thread reads the snapshot's files to its end, even if this task is cancelled.
            save = asyncio.to_thread(snapshots.save, key, snapshot, budget)
            return await run_shielded(save)


async def capture_snapshot(
    assets: Assets, options: Options, store: ImageStore, progress: Progress
) -> Snapshot:
    """Boot and warm a machine, and return its snapshot after a clone of it has run the sample.

    The caller closes the snapshot.

    Raises:
        HostError, ImageError: as :func:`create_snapshot` does.
    """
    is_compiled = assets.language.build is not None
    label = f"creating a snapshot of {assets.image.name}"
    with ExitStack() as on_failure:
        progress(f"{label}: booting")
        async with AsyncExitStack() as stack:
            guest = await ColdLauncher(store).launch(assets, options, template=True)
            stack.push_async_callback(_stop, guest)
            progress(f"{label}: running the sample program")
            await guest.run_sample(assets.language)
            snapshot = await guest.machine.snapshot()
            # Closes what the variable holds then: the snapshot with its working set replaces this.
            on_failure.callback(lambda: snapshot.close())  # noqa: PLW0108
        progress(f"{label}: trying a clone")
        async with AsyncExitStack() as stack:
            template = await stack.enter_async_context(
                await assets.hypervisor.open_template(snapshot.duplicate())
            )
            network = link = None
            if snapshot.port is PortKind.TCP:
                network = open_network(stack, snapshot.port)
                link = network.machine_end
            clone = Guest(await template.clone(network=link), network=network)
            stack.push_async_callback(_stop, clone)
            if network is not None:
                await clone.start_closed_gateway()
            await clone.adopt_clone()
            if not is_compiled:
                await clone.run_sample(assets.language)
            # Before a compiler runs: all idle clones would hold the pages that a compiler touches.
            snapshot = await clone.machine.record_working_set(snapshot)
            if is_compiled:
                await clone.run_sample(assets.language)
        on_failure.pop_all()
    return snapshot


async def _stop(guest: Guest) -> None:
    await run_shielded(guest.stop())
