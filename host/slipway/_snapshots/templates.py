"""Cache of templates: open snapshots from which clones are made.

A snapshot is kept in the store; each process that makes clones opens it as a template.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from slipway._model.network import Network
from slipway._run.guest import Guest
from slipway._run.start_info import StartInfo
from slipway._snapshots.clone_network import open_clone_network
from slipway._snapshots.key import NoSnapshot, SnapshotKey, build_missing_error, check_clonable
from slipway._snapshots.open_template import OpenTemplate, TemplateOpener
from slipway._snapshots.store import SnapshotStore
from slipway._util.errors import HostError, ImageError, NoAnswer, SlipwayError
from slipway.machine.model import PortKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipway._admission.admission import Admission
    from slipway._model.options import Options
    from slipway._run.assets import Assets
    from slipway_initramfs.store.image_store import ImageStore

# Failures in a row after which a snapshot is removed, to be created again.
MAX_FAILURES = 2
# A process that makes a second clone is likely to make more.
_CLONES_BEFORE_WARMTH = 2


class TemplateCache:
    """Templates of a process, opened at their first use, least recently used first.

    Shared templates serve many clones, of users who do not know each other. Their files are copied
    into sealed memory and verified before use, so that no clone can change them. A template for one
    run uses the files of the store directly, which are verified at the same time.
    """

    def __init__(self, store: ImageStore, admission: Admission | None = None) -> None:
        """With ``admission``, templates are shared, and take part of the memory for runs."""
        self._snapshots = SnapshotStore(store)
        self._admission = admission
        self._opener = TemplateOpener(self._snapshots, admission)
        self._open: dict[SnapshotKey, OpenTemplate] = {}
        self._locks: WeakValueDictionary[SnapshotKey, asyncio.Lock] = WeakValueDictionary()
        self._failures: Counter[SnapshotKey] = Counter()
        self._closes: set[asyncio.Task[None]] = set()
        self._warming: set[asyncio.Task[None]] = set()
        if admission is not None:
            admission.reclaim = self.evict

    @property
    def count(self) -> int:
        """Number of open templates."""
        return len(self._open)

    def key_of(self, assets: Assets, options: Options) -> SnapshotKey:
        """Return the key of snapshots that can serve this run.

        Raises:
            HostError: this host cannot run such a machine.
            NoSnapshot: no clone may serve this run.
        """
        check_clonable(assets, options)
        return SnapshotKey.of_run(assets, options)

    def has(self, key: SnapshotKey) -> bool:
        """Return True if a snapshot of ``key`` is open or in the store."""
        return key in self._open or self._snapshots.find(key) is not None

    async def clone(self, key: SnapshotKey, assets: Assets, options: Options) -> Guest:
        """Return a clone whose agent is ready, and whose network, if any, has no gateway yet.

        For an agent whose port is TCP, it has a gateway with the rules of ``options``. A snapshot
        is removed if it is damaged, or has failed ``MAX_FAILURES`` times in a row. A clone that
        does not answer in time is not counted: most likely the host is slow.

        Raises:
            NoSnapshot: the snapshot is missing, cannot be used, or does not fit into the memory.
        """
        try:
            return await self._try_clone(key, assets, options)
        except NoSnapshot:
            if self._admission is not None or not self._failures[key]:
                raise
        # A cache for one run sees no later failure: it tries again at once.
        return await self._try_clone(key, assets, options)

    async def _try_clone(self, key: SnapshotKey, assets: Assets, options: Options) -> Guest:
        """Return a clone; see :meth:`clone`.

        Raises:
            NoSnapshot: see :meth:`clone`; the failure was counted.
        """
        try:
            entry = await self._find_or_open(key, assets)
        except ImageError as error:  # the store has removed the snapshot
            raise NoSnapshot(
                f"the snapshot cannot be used, and was removed: {error.message}"
            ) from error
        except HostError as error:
            removed = self._count_failures(key, error)
            raise NoSnapshot(f"the snapshot cannot be used{removed}: {error.message}") from error
        with self._using(key, entry):
            entry.clones += 1
            failure = ""
            if entry.warm is not None:
                if entry.clones >= _CLONES_BEFORE_WARMTH and entry.warm.is_due:
                    self._warm_up(key, assets)
                warm = await entry.warm.clone(key, assets.hypervisor.reason)
                if isinstance(warm, Guest):
                    return warm
                failure = warm
            why = f"no warm clone: {failure}" if failure else ""
            start_info = StartInfo("snapshot", why, assets.hypervisor.reason)
            return await self._make_clone(key, entry, start_info, options)

    async def prepare_warm_clones(self, key: SnapshotKey, assets: Assets) -> None:
        """Have the clones of ``key`` from now on forked from one that has run the sample.

        Without memory for that, or on a host that cannot, nothing changes; neither for a snapshot
        that cannot be used, as :meth:`clone` will say.
        """
        with suppress(SlipwayError, NoSnapshot):
            entry = await self._find_or_open(key, assets)
            if entry.warm is not None:
                with self._using(key, entry):
                    await entry.warm.prepare(assets)

    def _warm_up(self, key: SnapshotKey, assets: Assets) -> None:
        """Prepare warm clones in the background, for a template that is used repeatedly."""
        self._warming.add(task := asyncio.create_task(self.prepare_warm_clones(key, assets)))
        task.add_done_callback(self._warming.discard)

    @contextmanager
    def _using(self, key: SnapshotKey, entry: OpenTemplate) -> Iterator[None]:
        """Keep an open template open."""
        entry.users += 1
        if entry.lease is not None:
            entry.lease.note_use()
        self._open[key] = self._open.pop(key)
        try:
            yield
        finally:
            entry.users -= 1
            if self._open.get(key) is not entry:
                self._start_close(entry)
            elif self._admission is not None:
                self._admission.settle()

    def close_template(self, key: SnapshotKey) -> int:
        """Start to close the template of ``key``, if open; return the bytes that it frees now."""
        entry = self._open.pop(key, None)
        return self._start_close(entry) if entry is not None else 0

    def evict(self, memory: int) -> None:
        """Close unused templates, least recently used first, until ``memory`` bytes are free."""
        for key, entry in list(self._open.items()):
            if memory > 0 and not entry.users:
                memory -= self.close_template(key)

    async def close(self) -> None:
        """Close all templates. Clones that exist continue."""
        if self._admission is not None:
            self._admission.reclaim = None
        for task in self._warming:
            task.cancel()
        if self._warming:
            await asyncio.wait(self._warming)
        for key in list(self._open):
            self.close_template(key)
        if self._closes:
            await asyncio.wait(self._closes)

    # --- Opening -------------------------------------------------------------------------------

    async def _find_or_open(self, key: SnapshotKey, assets: Assets) -> OpenTemplate:
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key in self._open:
                return self._open[key]
            stored = self._snapshots.find(key)
            if stored is None:
                raise build_missing_error(key, self._snapshots.find_difference(key))
            self._open[key] = entry = await self._opener.open(stored, assets.hypervisor)
            return entry

    # --- Cloning -------------------------------------------------------------------------------

    async def _make_clone(
        self, key: SnapshotKey, entry: OpenTemplate, start_info: StartInfo, options: Options
    ) -> Guest:
        async with AsyncExitStack() as on_failure:
            network, link = open_clone_network(key, on_failure)
            try:
                machine = await entry.template.clone(network=link)
            except HostError as error:  # most likely a limit of this host, as of processes
                removed = ""
                if self._admission is not None:  # a single run would not come to a better time
                    removed = self._count_failed_clone(key, entry, error)
                raise NoSnapshot(
                    f"the snapshot cannot be cloned{removed}: {error.message}"
                ) from error
            guest = Guest(machine, start_info, network)
            await on_failure.enter_async_context(guest)
            if key.port is PortKind.TCP:
                await guest.start_gateway(options.network or Network())
            try:
                await _adopt_clone(guest, entry.check)
            except SlipwayError as error:
                removed = self._count_failed_clone(key, entry, error)
                raise NoSnapshot(
                    f"the clone of a snapshot failed{removed}: {error.message}"
                ) from error
            del self._failures[key]
            on_failure.pop_all()
        return guest

    def _count_failed_clone(
        self, key: SnapshotKey, entry: OpenTemplate, error: SlipwayError
    ) -> str:
        """Close the template, to be opened again, and count; see :meth:`_count_failures`."""
        if self._open.get(key) is not entry:
            return ""  # another clone of the same template has failed before, and was counted
        self.close_template(key)
        return self._count_failures(key, error)

    def _count_failures(self, key: SnapshotKey, error: SlipwayError) -> str:
        """Remove the snapshot after ``MAX_FAILURES`` in a row; return the words that say this."""
        if isinstance(error, NoAnswer):
            return ""
        if isinstance(error, ImageError):  # the store has found damage, and removed the snapshot
            return ", and was removed"
        self._failures[key] += 1
        if self._failures[key] < MAX_FAILURES:
            return ""
        del self._failures[key]
        self._snapshots.forget(key)
        return ", and was removed"

    def _start_close(self, entry: OpenTemplate) -> int:
        """Close a template that is in the cache no more, after its last user.

        Return the bytes that are free now.
        """
        if entry.users:
            return 0
        self._closes.add(task := asyncio.create_task(entry.close()))
        task.add_done_callback(self._closes.discard)
        if self._admission is not None:
            self._admission.free(entry.reserved)
        return entry.reserved + (entry.warm.reserved if entry.warm is not None else 0)


async def _adopt_clone(guest: Guest, check: asyncio.Task[None] | None) -> None:
    """Wait until the clone's agent is ready and ``check`` has found its snapshot sound.

    Raises:
        SlipwayError: one of both failed. Damage is reported at once: it explains a clone that does
            not answer, for which the time limit is a minute.
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
