"""Lock of the creation of a snapshot: one process creates it, the others wait."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from slipway._run.image_errors import translated_image_errors
from slipway._util.errors import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from slipway._run.assets import Progress
    from slipway._snapshots.key import SnapshotKey
    from slipway_initramfs.store.image_store import ImageStore

# Longest wait for another process, in seconds: a slow host emulates two boots in two minutes.
WAIT_SECONDS = 600.0
_POLL_SECONDS = 0.1


@asynccontextmanager
async def hold_creation(
    store: ImageStore, key: SnapshotKey, progress: Progress
) -> AsyncIterator[bool]:
    """Hold the right to create the snapshot of ``key``; yield whether another process had it first.

    The kernel takes the right back from a process that ends (flock(2)).

    Raises:
        HostError: another process has not finished within ``WAIT_SECONDS``.
        ImageError: the store cannot be written.
    """
    from slipway_initramfs.disk import locks

    path, waited = _prepare_lock(store, key), False
    clock = asyncio.get_running_loop().time
    began, is_reported = clock(), False
    deadline = began + WAIT_SECONDS
    while True:
        with translated_image_errors(), locks.try_hold(store.tree, path) as held:
            if held:
                yield waited
                return
        if clock() - began >= locks.QUIET_SECONDS and not is_reported:
            is_reported = True
            with translated_image_errors(), locks.open_lock(store.tree, path) as lock:
                holder = locks.describe_holders(lock)
            progress(f"waiting for {holder}, which is creating a snapshot of {key.image}")
        if not waited:
            progress(f"waiting for another process that is creating a snapshot of {key.image}")
        waited = True
        if clock() >= deadline:
            raise HostError(
                f"another process has been creating the snapshot {key.name} for {WAIT_SECONDS:g} s",
                "End that process, or use --no-snapshot.",
            )
        await asyncio.sleep(_POLL_SECONDS)


def is_being_created(store: ImageStore, key: SnapshotKey) -> bool:
    """Return whether a process, this one included, is creating the snapshot of ``key``.

    Raises:
        ImageError: the store cannot be written.
    """
    from slipway_initramfs.disk import locks

    path = _prepare_lock(store, key)
    with translated_image_errors(), locks.try_hold(store.tree, path) as held:
        return not held


def _prepare_lock(store: ImageStore, key: SnapshotKey) -> Path:
    from slipway_initramfs.store import files

    directory = store.root / "locks"
    with translated_image_errors():
        files.make_directory(store, directory)
    return directory / f"creation-{key.name}"
