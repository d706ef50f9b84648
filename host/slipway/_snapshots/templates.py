"""TemplateCache: machines that were ready once, and of which clones are made.

A template is made in the background or when asked for, tried, and kept in the store as a snapshot;
each process that wants clones opens it anew.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from slipway._model.errors import HostError, ImageError, SlipwayError
from slipway._run.guest import Guest, StartInfo
from slipway._snapshots.key import NoSnapshot, SnapshotKey, check_clonable
from slipway._snapshots.store import SnapshotStore
from slipway._util.threads import run_shielded
from slipway.machine.hypervisors import find_hypervisor

if TYPE_CHECKING:
    from slipway._admission import Admission
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway._snapshots.store import StoredSnapshot
    from slipway.machine.model import Hypervisor, Snapshot, Template
    from slipway_initramfs.store.image_store import ImageStore

# A snapshot that cannot be cloned so often, one time after the other, is made anew.
MAX_FAILURES = 2


@dataclass(eq=False, slots=True)
class _OpenTemplate:
    """A template that this process has open.

    ``check`` reads every byte of it, while it is used; ``reserved`` are the bytes that it has in
    memory; ``users`` count those who are making a clone of it.
    """

    template: Template
    check: asyncio.Task[None] | None
    reserved: int = 0
    users: int = 0


class TemplateCache:
    """The templates of a process, opened at their first use.

    Those that are shared serve many clones, of people who do not know each other. Their memory is
    copied, and checked before anything uses it; nothing that breaks out of one clone can change it.
    Else the store's files are used as they are, and checked meanwhile.
    """

    def __init__(self, store: ImageStore, admission: Admission | None = None) -> None:
        """With ``admission``, whose memory they take part of, they are shared."""
        self._snapshots = SnapshotStore(store)
        self._admission = admission
        self._shared = admission is not None
        self._open_templates: dict[SnapshotKey, _OpenTemplate] = {}
        """Those that were used longest ago come first."""
        self._opening: WeakValueDictionary[SnapshotKey, asyncio.Lock] = WeakValueDictionary()
        self._failures: Counter[SnapshotKey] = Counter()
        self._closing: set[asyncio.Task[None]] = set()
        if admission is not None:
            admission.reclaim = self.evict

    def key_of(self, assets: Assets, options: Options) -> SnapshotKey:
        """What a snapshot has to be of to serve this run.

        Raises:
            HostError: this host cannot run such a machine.
            NoSnapshot: no clone may serve this run.
        """
        check_clonable(assets, options)
        return SnapshotKey.of(assets, options.cpus)

    def overhead(self, key: SnapshotKey) -> int:
        """Bytes that a machine of this kind takes at most beside its guest's memory."""
        return find_hypervisor(key.machine).overhead

    def idle_memory(self, key: SnapshotKey) -> int:
        """Bytes that a clone has at most for itself while it waits for a job."""
        return find_hypervisor(key.machine).idle_memory

    def has(self, key: SnapshotKey) -> bool:
        """Whether there is a snapshot of it."""
        return key in self._open_templates or self._snapshots.find(key) is not None

    async def clone(self, key: SnapshotKey, assets: Assets, options: Options) -> Guest:
        """A clone whose agent is ready. A snapshot that cannot be used is discarded.

        Raises:
            NoSnapshot: it is missing, cannot be used, or there is no room for it.
        """
        try:
            opened = await self._open(key, assets)
        except ImageError as error:  # the store has forgotten it
            raise NoSnapshot(
                f"the snapshot cannot be used, and was removed: {error.message}"
            ) from error
        except HostError as error:
            removed = self._count_failures(key, 1 if self._shared else MAX_FAILURES)
            raise NoSnapshot(f"the snapshot cannot be used{removed}: {error.message}") from error
        opened.users += 1
        self._open_templates[key] = self._open_templates.pop(key)
        try:
            return await self._make_clone(
                key, opened, StartInfo("snapshot", "", assets.hypervisor.reason)
            )
        finally:
            opened.users -= 1
            if self._open_templates.get(key) is not opened:
                self._close_soon(opened)
            elif self._admission is not None:
                self._admission.settle()

    def close_template(self, key: SnapshotKey) -> int:
        """Close this one soon, if it is open; the bytes that it gives back now."""
        opened = self._open_templates.pop(key, None)
        return self._close_soon(opened) if opened is not None else 0

    def evict(self, memory: int) -> None:
        """Close those used longest ago, but none in use, until they have given back ``memory``."""
        for key, opened in list(self._open_templates.items()):
            if memory > 0 and not opened.users:
                memory -= self.close_template(key)

    async def close(self) -> None:
        """Close all. Clones that exist go on."""
        if self._admission is not None:
            self._admission.reclaim = None
        for key in list(self._open_templates):
            self.close_template(key)
        if self._closing:
            await asyncio.wait(self._closing)

    # --- Opening -------------------------------------------------------------------------------

    async def _open(self, key: SnapshotKey, assets: Assets) -> _OpenTemplate:
        """The template. Raises NoSnapshot."""
        async with self._opening.setdefault(key, asyncio.Lock()):
            if key in self._open_templates:
                return self._open_templates[key]
            stored = self._snapshots.find(key)
            if stored is None:
                raise NoSnapshot("there is no snapshot")
            opening = self._open_copy if self._shared else self._open_files
            self._open_templates[key] = opened = await opening(stored, assets.hypervisor)
            return opened

    async def _open_files(self, stored: StoredSnapshot, hypervisor: Hypervisor) -> _OpenTemplate:
        snapshot = self._snapshots.open(stored)
        try:
            twin = snapshot.duplicate()
        except BaseException:
            snapshot.close()
            raise
        check = asyncio.create_task(self._verify(stored, twin))
        check.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            return _OpenTemplate(await hypervisor.open_template(snapshot), check)
        except SlipwayError:
            # What is damaged is the better explanation of what the machine cannot read.
            await asyncio.shield(check)
            raise
        except BaseException:
            await run_shielded(asyncio.wait([check]))
            raise

    async def _open_copy(self, stored: StoredSnapshot, hypervisor: Hypervisor) -> _OpenTemplate:
        assert self._admission is not None
        size = stored.disk_bytes
        if not self._admission.reserve(size):
            raise NoSnapshot("there is no room for the snapshot among the runs")
        try:
            try:
                snapshot = await self._load_copy(stored)
            except ImageError:
                raise
            except HostError as error:
                raise NoSnapshot(f"there is no room for the snapshot: {error.message}") from error
            return _OpenTemplate(await hypervisor.open_template(snapshot), None, size)
        except BaseException:
            self._admission.free(size)
            raise

    async def _load_copy(self, stored: StoredSnapshot) -> Snapshot:
        loaded: list[Snapshot] = []

        async def load() -> None:
            loaded.append(await asyncio.to_thread(self._snapshots.load, stored))

        try:
            await run_shielded(load())  # the thread cannot be broken off, and opens files
        except BaseException:
            for snapshot in loaded:
                snapshot.close()
            raise
        return loaded[0]

    async def _verify(self, stored: StoredSnapshot, snapshot: Snapshot) -> None:
        try:
            await run_shielded(asyncio.to_thread(self._snapshots.verify, stored, snapshot))
        finally:
            snapshot.close()

    # --- Cloning -------------------------------------------------------------------------------

    async def _make_clone(
        self, key: SnapshotKey, opened: _OpenTemplate, origin: StartInfo
    ) -> Guest:
        try:
            machine = await opened.template.clone()
        except HostError as error:  # of this host, most likely: there is no room for a process
            removed = self._count_failed_clone(key, opened, 1)
            raise NoSnapshot(
                f"the snapshot could not be cloned{removed}: {error.message}"
            ) from error
        guest = Guest(machine, origin)
        try:
            await _wait_answer(guest, opened.check)
        except SlipwayError as error:
            await run_shielded(guest.stop())
            removed = self._count_failed_clone(key, opened, 1 if self._shared else MAX_FAILURES)
            raise NoSnapshot(
                f"the clone of a snapshot was of no use{removed}: {error.message}"
            ) from error
        except BaseException:
            await run_shielded(guest.stop())
            raise
        del self._failures[key]
        return guest

    def _count_failed_clone(self, key: SnapshotKey, opened: _OpenTemplate, times: int) -> str:
        """Open it anew next time; see :meth:`_count`."""
        if self._open_templates.get(key) is not opened:
            return ""  # somebody else's clone of it has failed before, and was counted
        self.close_template(key)
        return self._count_failures(key, times)

    def _count_failures(self, key: SnapshotKey, times: int) -> str:
        """After ``MAX_FAILURES`` in a row, have it made anew; says that it was removed then."""
        self._failures[key] += times
        if self._failures[key] < MAX_FAILURES:
            return ""
        del self._failures[key]
        self._snapshots.forget(key)
        return ", and was removed"

    def _close_soon(self, opened: _OpenTemplate) -> int:
        """Close what nobody finds any more, after its last user; the bytes given back now."""
        if opened.users:
            return 0
        self._closing.add(task := asyncio.create_task(_close(opened)))
        task.add_done_callback(self._closing.discard)
        if self._admission is not None:
            self._admission.free(opened.reserved)
        return opened.reserved


async def _wait_answer(guest: Guest, check: asyncio.Task[None] | None) -> None:
    """Until the clone's agent is ready and what it was cloned from is known to be sound.

    Raises:
        SlipwayError: one of them is not. What is damaged explains a clone that does not answer,
            which may take a minute to give up.
    """
    if check is None:
        await guest.adopt_clone()
        return
    answer = asyncio.ensure_future(guest.adopt_clone())
    try:
        await asyncio.wait([answer, check], return_when=asyncio.FIRST_EXCEPTION)
        await asyncio.shield(check)
        await answer
    finally:
        if not answer.done():
            answer.cancel()
            await asyncio.wait([answer])
        elif not answer.cancelled():
            answer.exception()


async def _close(opened: _OpenTemplate) -> None:
    await opened.template.close()
    if opened.check is not None:
        with suppress(SlipwayError):
            await opened.check
