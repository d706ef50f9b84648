"""Open templates: snapshots of the store that this process has opened to make clones."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._snapshots.key import NoSnapshot
from slipway._snapshots.lease import SnapshotLease
from slipway._snapshots.warm_clones import WarmClones
from slipway._util.errors import HostError, ImageError, SlipwayError
from slipway._util.threads import run_shielded

if TYPE_CHECKING:
    from slipway._admission.admission import Admission
    from slipway._snapshots.store import SnapshotStore
    from slipway._snapshots.stored_snapshot import StoredSnapshot
    from slipway.machine.model import Hypervisor, Snapshot, Template


@dataclass(eq=False, slots=True)
class OpenTemplate:
    """Template that this process has open.

    ``check`` verifies every byte of the snapshot's files while the template is in use already.
    ``reserved`` bytes are in memory; ``users`` is the number of clones that are being made, and
    ``clones`` that of all so far. ``lease`` keeps the snapshot in the store until the template is
    closed. ``warm`` makes the clones of a shared template faster.
    """

    template: Template
    check: asyncio.Task[None] | None
    reserved: int = 0
    users: int = 0
    lease: SnapshotLease | None = None
    clones: int = 0
    warm: WarmClones | None = None

    async def close(self) -> None:
        """Close the template; clones that exist continue."""
        with ExitStack() as at_end:
            if self.lease is not None:
                at_end.callback(self.lease.close)
            if self.warm is not None:
                await self.warm.close()
            await self.template.close()
            if self.check is not None:
                with suppress(SlipwayError):
                    await self.check


class TemplateOpener:
    """Opener of snapshots.

    With ``admission``, a template is shared, and is a verified copy in memory. Else it is for one
    run, and uses the files of the store, which are verified at the same time.
    """

    def __init__(self, snapshots: SnapshotStore, admission: Admission | None) -> None:
        self._snapshots = snapshots
        self._admission = admission

    async def open(self, stored: StoredSnapshot, hypervisor: Hypervisor) -> OpenTemplate:
        """Return the template of a snapshot.

        Raises:
            NoSnapshot: the snapshot does not fit into the memory.
            ImageError: the snapshot is lost or damaged, and was removed.
            HostError: this host cannot use the snapshot.
        """
        with ExitStack() as on_failure:
            lease = on_failure.enter_context(SnapshotLease(stored))
            if self._admission is None:
                entry = await self._open_files(stored, hypervisor)
            else:
                entry = await self._open_copy(stored, hypervisor, self._admission)
            entry.lease = lease
            on_failure.pop_all()
        return entry

    async def _open_files(self, stored: StoredSnapshot, hypervisor: Hypervisor) -> OpenTemplate:
        with ExitStack() as on_failure:
            snapshot = on_failure.enter_context(self._snapshots.open(stored))
            twin = snapshot.duplicate()
            on_failure.pop_all()
        check = asyncio.create_task(self._verify(stored, twin))
        check.add_done_callback(lambda task: task.cancelled() or task.exception())
        async with AsyncExitStack() as stack:
            # The check has files open: no failure may leave it behind.
            stack.push_async_callback(lambda: run_shielded(asyncio.wait([check])))
            try:
                template = await hypervisor.open_template(snapshot)
            except SlipwayError:
                # Damage, found by the check, explains more than the hypervisor's refusal.
                await asyncio.shield(check)
                raise
            stack.pop_all()
        return OpenTemplate(template, check)

    async def _open_copy(
        self, stored: StoredSnapshot, hypervisor: Hypervisor, admission: Admission
    ) -> OpenTemplate:
        size = stored.disk_bytes
        if not admission.reserve(size):
            raise NoSnapshot("no room for the snapshot beside the runs")
        with ExitStack() as on_failure:
            on_failure.callback(admission.free, size)
            try:
                snapshot = await self._load_copy(stored)
            except ImageError:
                raise
            except HostError as error:
                raise NoSnapshot(f"no room for the snapshot: {error.message}") from error
            template = await hypervisor.open_template(snapshot)
            on_failure.pop_all()
        return OpenTemplate(template, None, size, warm=WarmClones(template, admission))

    async def _load_copy(self, stored: StoredSnapshot) -> Snapshot:
        """Load a sealed copy in a thread, which cannot be cancelled; close it if this task is."""
        with ExitStack() as on_failure:

            async def load() -> Snapshot:
                snapshot = await asyncio.to_thread(self._snapshots.load, stored)
                return on_failure.enter_context(snapshot)

            snapshot = await run_shielded(load())
            on_failure.pop_all()
        return snapshot

    async def _verify(self, stored: StoredSnapshot, snapshot: Snapshot) -> None:
        with snapshot:
            await run_shielded(asyncio.to_thread(self._snapshots.verify, stored, snapshot))
