"""Templates: machines that were ready once, and of which clones are made.

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
from slipway._snapshots.key import NoSnapshot, Shape, check_clonable
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
class _Opened:
    """A template that this process has open.

    ``check`` reads every byte of it, while it is used; ``reserved`` are the bytes that it has in
    memory; ``users`` count those who are making a clone of it.
    """

    template: Template
    check: asyncio.Task[None] | None
    reserved: int = 0
    users: int = 0


class Templates:
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
        self._opened: dict[Shape, _Opened] = {}
        """Those that were used longest ago come first."""
        self._opening: WeakValueDictionary[Shape, asyncio.Lock] = WeakValueDictionary()
        self._failures: Counter[Shape] = Counter()
        self._closing: set[asyncio.Task[None]] = set()
        if admission is not None:
            admission.reclaim = self.give_way

    def shape(self, assets: Assets, options: Options) -> Shape:
        """What a snapshot has to be of to serve this run.

        Raises:
            HostError: this host cannot run such a machine.
            NoSnapshot: no clone may serve this run.
        """
        check_clonable(assets, options)
        return Shape.of(assets, options.cpus)

    def overhead(self, shape: Shape) -> int:
        """Bytes that a machine of this kind takes at most beside its guest's memory."""
        return find_hypervisor(shape.machine).overhead

    def idle_memory(self, shape: Shape) -> int:
        """Bytes that a clone has at most for itself while it waits for a job."""
        return find_hypervisor(shape.machine).idle_memory

    def has(self, shape: Shape) -> bool:
        """Whether there is a snapshot of it."""
        return shape in self._opened or self._snapshots.find(shape) is not None

    async def clone(self, shape: Shape, assets: Assets, options: Options) -> Guest:
        """A clone whose agent is ready. A snapshot that cannot be used is discarded.

        Raises:
            NoSnapshot: it is missing, cannot be used, or there is no room for it.
        """
        try:
            opened = await self._open(shape, assets)
        except ImageError as error:  # the store has forgotten it
            raise NoSnapshot(
                f"the snapshot cannot be used, and was removed: {error.message}"
            ) from error
        except HostError as error:
            removed = self._count(shape, 1 if self._shared else MAX_FAILURES)
            raise NoSnapshot(f"the snapshot cannot be used{removed}: {error.message}") from error
        opened.users += 1
        self._opened[shape] = self._opened.pop(shape)
        try:
            return await self._cloned(
                shape, opened, StartInfo("snapshot", "", assets.hypervisor.reason)
            )
        finally:
            opened.users -= 1
            if self._opened.get(shape) is not opened:
                self._close_soon(opened)
            elif self._admission is not None:
                self._admission.settle()

    def drop(self, shape: Shape) -> int:
        """Close this one soon, if it is open; the bytes that it gives back now."""
        opened = self._opened.pop(shape, None)
        return self._close_soon(opened) if opened is not None else 0

    def give_way(self, memory: int) -> None:
        """Close those used longest ago, but none in use, until they have given back ``memory``."""
        for shape, opened in list(self._opened.items()):
            if memory > 0 and not opened.users:
                memory -= self.drop(shape)

    async def close(self) -> None:
        """Close all. Clones that exist go on."""
        if self._admission is not None:
            self._admission.reclaim = None
        for shape in list(self._opened):
            self.drop(shape)
        if self._closing:
            await asyncio.wait(self._closing)

    # --- Opening -------------------------------------------------------------------------------

    async def _open(self, shape: Shape, assets: Assets) -> _Opened:
        """The template. Raises NoSnapshot."""
        async with self._opening.setdefault(shape, asyncio.Lock()):
            if shape in self._opened:
                return self._opened[shape]
            stored = self._snapshots.find(shape)
            if stored is None:
                raise NoSnapshot("there is no snapshot")
            opening = self._open_copy if self._shared else self._open_files
            self._opened[shape] = opened = await opening(stored, assets.hypervisor)
            return opened

    async def _open_files(self, stored: StoredSnapshot, hypervisor: Hypervisor) -> _Opened:
        snapshot = self._snapshots.open(stored)
        try:
            twin = snapshot.duplicate()
        except BaseException:
            snapshot.close()
            raise
        check = asyncio.create_task(self._verify(stored, twin))
        check.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            return _Opened(await hypervisor.open_template(snapshot), check)
        except SlipwayError:
            # What is damaged is the better explanation of what the machine cannot read.
            await asyncio.shield(check)
            raise
        except BaseException:
            await run_shielded(asyncio.wait([check]))
            raise

    async def _open_copy(self, stored: StoredSnapshot, hypervisor: Hypervisor) -> _Opened:
        assert self._admission is not None
        size = stored.disk_bytes
        if not self._admission.reserve(size):
            raise NoSnapshot("there is no room for the snapshot among the runs")
        try:
            try:
                snapshot = await self._loaded(stored)
            except ImageError:
                raise
            except HostError as error:
                raise NoSnapshot(f"there is no room for the snapshot: {error.message}") from error
            return _Opened(await hypervisor.open_template(snapshot), None, size)
        except BaseException:
            self._admission.free(size)
            raise

    async def _loaded(self, stored: StoredSnapshot) -> Snapshot:
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

    async def _cloned(self, shape: Shape, opened: _Opened, origin: StartInfo) -> Guest:
        try:
            machine = await opened.template.clone()
        except HostError as error:  # of this host, most likely: there is no room for a process
            removed = self._failed(shape, opened, 1)
            raise NoSnapshot(
                f"the snapshot could not be cloned{removed}: {error.message}"
            ) from error
        guest = Guest(machine, origin)
        try:
            await _answered(guest, opened.check)
        except SlipwayError as error:
            await run_shielded(guest.stop())
            removed = self._failed(shape, opened, 1 if self._shared else MAX_FAILURES)
            raise NoSnapshot(
                f"the clone of a snapshot was of no use{removed}: {error.message}"
            ) from error
        except BaseException:
            await run_shielded(guest.stop())
            raise
        del self._failures[shape]
        return guest

    def _failed(self, shape: Shape, opened: _Opened, times: int) -> str:
        """Open it anew next time; see :meth:`_count`."""
        if self._opened.get(shape) is not opened:
            return ""  # somebody else's clone of it has failed before, and was counted
        self.drop(shape)
        return self._count(shape, times)

    def _count(self, shape: Shape, times: int) -> str:
        """After ``MAX_FAILURES`` in a row, have it made anew; says that it was removed then."""
        self._failures[shape] += times
        if self._failures[shape] < MAX_FAILURES:
            return ""
        del self._failures[shape]
        self._snapshots.forget(shape)
        return ", and was removed"

    def _close_soon(self, opened: _Opened) -> int:
        """Close what nobody finds any more, after its last user; the bytes given back now."""
        if opened.users:
            return 0
        self._closing.add(task := asyncio.create_task(_close(opened)))
        task.add_done_callback(self._closing.discard)
        if self._admission is not None:
            self._admission.free(opened.reserved)
        return opened.reserved


async def _answered(guest: Guest, check: asyncio.Task[None] | None) -> None:
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


async def _close(opened: _Opened) -> None:
    await opened.template.close()
    if opened.check is not None:
        with suppress(SlipwayError):
            await opened.check
