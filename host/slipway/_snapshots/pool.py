"""Pool of idle clones, by snapshot key.

The agent of an idle clone is ready, and its interpreter, if the language has one, waits for a
script. A run takes the oldest clone, and another is made in the background, when a processor is
free. The pool keeps as many clones as were lately needed at once, in memory that the admission does
not need for runs: a run without room gets the memory of idle clones.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, ExitStack, suppress
from typing import TYPE_CHECKING

from slipway._model.network import Network
from slipway._model.options import Options
from slipway._run.start_info import StartInfo
from slipway._snapshots.create import create_sound_snapshot
from slipway._snapshots.creation_lock import is_being_created
from slipway._snapshots.key import NoSnapshot
from slipway._snapshots.pool_entry import IdleClone, PoolEntry
from slipway._util.errors import SlipwayError
from slipway._util.memory import read_unshared_bytes
from slipway._util.threads import run_shielded
from slipway._util.units import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway._admission.admission import Admission
    from slipway._run.assets import Assets
    from slipway._run.guest import Guest
    from slipway._snapshots.key import SnapshotKey
    from slipway._snapshots.templates import TemplateCache
    from slipway_initramfs.store.image_store import ImageStore

log = logging.getLogger("slipway.pool")
log.addHandler(logging.NullHandler())

# Bytes that the unshared memory of a clone may grow by while it waits.
SLACK = 16 * MIB
# Interval between two checks of demand and free memory, and the pause after a lack of memory.
TICK_SECONDS = 5.0
# While runs have all processors, a clone for the next run would take time from them, and that run
# makes one as fast. But they may all be asleep: so often one is made nevertheless. In between, the
# pool looks for a free processor.
BUSY_SECONDS = 1.0
LOOK_SECONDS = 0.1
# An entry without demand for this time keeps one clone less.
UNUSED_SECONDS = 60.0
# Free memory of the host, in bytes, below which the pool keeps no clone.
SHORT_OF_MEMORY = 256 * MIB
# An idle clone answers within milliseconds. A clone that does not is discarded.
ANSWER_SECONDS = 10.0


class Pool:
    """Pool of at most ``size`` idle clones for each snapshot key.

    Missing snapshots are created for default machines of a language only. For other machines,
    callers could cause snapshots without end.
    """

    def __init__(
        self,
        store: ImageStore,
        templates: TemplateCache,
        admission: Admission,
        size: int,
        budget: int | None = None,
    ) -> None:
        """Keep up to ``size`` clones of each key; ``budget`` bounds the disk space of snapshots."""
        self._store = store
        self._budget = budget
        self._templates = templates
        self._admission = admission
        self._size = size
        self._entries: dict[SnapshotKey, PoolEntry] = {}
        self._wake = asyncio.Event()
        # When the last clone was begun, by the event loop's clock.
        self._begun = 0.0
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._stops: set[asyncio.Task[None]] = set()
        admission.reclaim = self._evict

    @property
    def entries(self) -> Mapping[SnapshotKey, PoolEntry]:
        """Entries of all keys with demand; read-only."""
        return self._entries

    @property
    def idle(self) -> int:
        """Number of idle clones."""
        return sum(len(entry.ready) for entry in self._entries.values())

    async def take(self, key: SnapshotKey, assets: Assets, options: Options) -> Guest | None:
        """Return the oldest idle clone of ``key`` that answers, or None; another is made for it."""
        entry = self._find_or_add_entry(key, assets, options)
        while entry.ready:
            guest = self._remove_clone(entry.ready[0], entry)
            guest.mark_taken(StartInfo("pool", "", guest.start_info.machine_reason))
            if await self._resync(guest, key):
                entry.backoff = 0.0
                return guest
        # Demand at once: all idle clones, and this run.
        entry.desired = min(entry.desired + 1, self._size)
        self._wake.set()
        return None

    def prewarm(self, key: SnapshotKey, assets: Assets, options: Options) -> None:
        """Keep clones of ``key`` from now on, without waiting for demand."""
        entry = self._find_or_add_entry(key, assets, options)
        entry.desired = entry.minimum = self._size

    async def close(self) -> None:
        """End all idle clones, and the clone that is being made."""
        self._closed = True
        self._admission.reclaim = self._templates.evict
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for entry in self._entries.values():
            self._end_clones(entry)
        self._entries.clear()
        if self._stops:
            await asyncio.wait(self._stops)

    def _find_or_add_entry(self, key: SnapshotKey, assets: Assets, options: Options) -> PoolEntry:
        """Return the entry of ``key``, or a new entry in place of those that ``key`` replaces."""
        entry = self._entries.get(key)
        if entry is None:
            # Only options of the machine are kept: the rest is a run's.
            options = Options(
                memory=options.memory,
                cpus=options.cpus,
                machine=options.machine,
                arch=options.arch,
                port=options.port,
                kernel=options.kernel,
                # Any rules: a clone gets those of its run when it is taken.
                network=None if options.network is None else Network(),
            )
            entry = PoolEntry(key, assets, options)
            # A rebuilt image has other inputs; clones of the old image are of no use any more.
            for other in [each for each in self._entries.values() if each.key.replaces(key)]:
                entry.desired = entry.minimum = other.minimum
                self._end_clones(other)
                del self._entries[other.key]
                self._templates.close_template(other.key)
            self._entries[key] = entry
        entry.assets, entry.used = assets, asyncio.get_running_loop().time()
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._fill_forever(), name="slipway-pool")
        self._wake.set()
        return entry

    # --- Idle clones ---------------------------------------------------------------------------

    @staticmethod
    async def _resync(guest: Guest, key: SnapshotKey) -> bool:
        """Set the clock of a clone that has waited; return False if it does not answer."""
        async with AsyncExitStack() as on_failure:
            on_failure.push_async_callback(_stop, guest)
            try:
                # Its clock may have drifted, and the host may have slept.
                async with asyncio.timeout(ANSWER_SECONDS):
                    await guest.resync()
            except TimeoutError:
                log.warning("discarded an idle %s: no answer in %g s", key.name, ANSWER_SECONDS)
                return False
            except SlipwayError as error:
                log.warning("discarded an idle %s: %s", key.name, error.message)
                return False
            on_failure.pop_all()
        return True

    def _keep_clone(self, guest: Guest, entry: PoolEntry, memory: int) -> None:
        idle = IdleClone(guest, asyncio.create_task(guest.machine.wait()), memory)
        entry.ready.append(idle)
        idle.watch.add_done_callback(lambda watch: self._on_clone_end(idle, entry, watch))

    def _on_clone_end(self, idle: IdleClone, entry: PoolEntry, watch: asyncio.Task[int]) -> None:
        if not watch.cancelled() and idle in entry.ready:
            log.warning("an idle %s ended", entry.key.name)
            entry.back_off()
            self._end_clone(idle, entry)
            self._wake.set()

    def _remove_clone(self, idle: IdleClone, entry: PoolEntry) -> Guest:
        entry.ready.remove(idle)
        idle.watch.cancel()
        self._admission.free(idle.memory)
        return idle.guest

    def _end_clone(self, idle: IdleClone, entry: PoolEntry) -> None:
        stop = asyncio.create_task(self._remove_clone(idle, entry).stop())
        self._stops.add(stop)
        stop.add_done_callback(self._stops.discard)

    def _end_clones(self, entry: PoolEntry) -> None:
        while entry.ready:
            self._end_clone(entry.ready[0], entry)

    def _evict(self, memory: int) -> None:
        """Give ``memory`` bytes of idle clones to a run, longest without demand first."""
        for entry in sorted(self._entries.values(), key=lambda entry: entry.used):
            while entry.ready and memory > 0:
                memory -= entry.ready[0].memory
                self._end_clone(entry.ready[0], entry)
                entry.desired = max(entry.desired - 1, entry.minimum)
                entry.postpone(TICK_SECONDS)
        self._templates.evict(memory)

    def _evict_all(self) -> None:
        """Give all memory of idle clones to the host; if none is left, that of templates."""
        if not self.idle:
            self._templates.evict(self._admission.capacity.memory)
        for entry in self._entries.values():
            self._end_clones(entry)

    # --- Filling -------------------------------------------------------------------------------

    async def _fill_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                self._forget_unused()
                if _is_host_short_of_memory():
                    self._evict_all()
                elif (entry := self._find_shortest()) is not None and self._may_fill():
                    # One at a time: runs need the processors at the same time.
                    self._begun = asyncio.get_running_loop().time()
                    await self._add_clone(entry)
                    continue
            except Exception:
                # Runs continue without a pool.
                log.exception("bug in the pool")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._find_wait_seconds()):
                    await self._wake.wait()

    def _may_fill(self) -> bool:
        """Tell if a processor is free, or was not for long."""
        load = self._admission.load
        now = asyncio.get_running_loop().time()
        return load.cpus < load.capacity.cpus or now - self._begun >= BUSY_SECONDS

    def _find_wait_seconds(self) -> float:
        """Return the seconds until an entry's next attempt, at most ``TICK_SECONDS``."""
        if self._find_shortest() is not None:
            return LOOK_SECONDS
        now = asyncio.get_running_loop().time()
        due = [e.retry_at - now for e in self._entries.values() if e.retry_at > now]
        return min([TICK_SECONDS, *due])

    def _find_shortest(self) -> PoolEntry | None:
        """Return the entry with the fewest clones of those that are short."""
        short = [entry for entry in self._entries.values() if entry.is_short]
        return min(short, key=lambda entry: len(entry.ready), default=None)

    def _forget_unused(self) -> None:
        now = asyncio.get_running_loop().time()
        for entry in list(self._entries.values()):
            if entry.minimum or now - max(entry.used, entry.shrunk) <= UNUSED_SECONDS:
                continue
            entry.desired, entry.shrunk = max(entry.desired - 1, 0), now
            while len(entry.ready) > entry.desired:
                self._end_clone(entry.ready[0], entry)
            if not entry.desired:  # bounds the number of entries: each run may ask for another key
                del self._entries[entry.key]

    async def _add_clone(self, entry: PoolEntry) -> None:
        memory = entry.assets.hypervisor.idle_memory
        if not self._admission.reserve(memory):
            entry.postpone(TICK_SECONDS)
            return
        with ExitStack() as on_failure:
            on_failure.callback(self._admission.free, memory)
            guest = await self._make_clone(entry)
            if guest is None:
                return
            # The entry may have been forgotten or shrunk while the clone was made.
            if self._entries.get(entry.key) is not entry or len(entry.ready) >= entry.desired:
                await _stop(guest)
                return
            on_failure.pop_all()
        needed = min(memory, read_unshared_bytes(guest.machine.pid, memory) + SLACK)
        self._admission.free(memory - needed)
        self._keep_clone(guest, entry, needed)
        # A run may have come that lacks just this memory, and found nothing to evict.
        self._admission.settle()

    async def _make_clone(self, entry: PoolEntry) -> Guest | None:
        """Make a clone that is ready for a job; None after a failure, which is logged."""
        try:
            if not self._templates.has(entry.key) and not await self._create_snapshot(entry):
                return None
            await self._templates.prepare_warm_clones(entry.key, entry.assets)
            async with AsyncExitStack() as on_failure:
                guest = await self._templates.clone(entry.key, entry.assets, entry.options)
                on_failure.push_async_callback(_stop, guest)
                await guest.prestart(entry.assets.language)
                on_failure.pop_all()
        except NoSnapshot as error:
            log.warning("%s: %s", entry.key.name, error.reason)
        except SlipwayError as error:
            log.warning("cannot make a clone of %s: %s", entry.key.name, error.message)
        except Exception:
            log.exception("bug: cannot make a clone of %s", entry.key.name)
        else:
            return guest
        entry.back_off()
        return None

    async def _create_snapshot(self, entry: PoolEntry) -> bool:
        """Create the snapshot of the entry's key; return False if it may not be created now."""
        assets, options = entry.assets, entry.options
        if assets.memory != assets.image.default_memory or options.cpus != 1:
            entry.desired = 0
            return False
        needed = assets.footprint
        # Another process may be at it: its snapshot is as good, and other entries need clones.
        if is_being_created(self._store, entry.key) or not self._admission.reserve(needed):
            entry.postpone(TICK_SECONDS)
            return False
        try:
            await create_sound_snapshot(assets, options, self._store, _log_line, self._budget)
        finally:
            self._admission.free(needed)
        return True


async def _stop(guest: Guest) -> None:
    await run_shielded(guest.stop())


def _log_line(line: str) -> None:
    log.info("%s", line)


def _is_host_short_of_memory() -> bool:
    import psutil

    return bool(psutil.virtual_memory().available < SHORT_OF_MEMORY)
