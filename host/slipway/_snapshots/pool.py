"""Clones that wait for runs.

For each shape of machine that is in demand some clones are kept whose agent is ready and whose
interpreter, where the language has one, waits for its script. A run takes the oldest; another is
made in the background. There are as many as were lately needed at once, within what the admission
of runs leaves of the memory: a run that finds no room takes it from them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from slipway._model.errors import SlipwayError
from slipway._model.options import Options
from slipway._run.guest import StartInfo
from slipway._snapshots.create import make
from slipway._snapshots.key import NoSnapshot
from slipway._snapshots.pool_entry import Idle, Shelf
from slipway._util.memory import read_unshared_bytes
from slipway._util.threads import run_shielded
from slipway._util.units import MIB

if TYPE_CHECKING:
    from slipway._admission import Admission
    from slipway._run.assets import Assets
    from slipway._run.guest import Guest
    from slipway._snapshots.key import Shape
    from slipway._snapshots.templates import Templates
    from slipway_initramfs.store.image_store import ImageStore

log = logging.getLogger("slipway.pool")
log.addHandler(logging.NullHandler())

# What a clone that waits may come to have beyond what it had for itself when it was ready.
SLACK = 16 * MIB
# How often what waits is looked at: whether it is still wanted, and may still be there. Where there
# was no room, it is looked for again.
TICK_SECONDS = 5.0
# A shape that nobody asked for in this time keeps one clone less.
UNUSED_SECONDS = 60.0
# Below this the host itself is short of memory: nothing waits, and nothing is made ahead.
SHORT_OF_MEMORY = 256 * MIB
# A clone that waited has an answer within milliseconds; a run does better without one that hangs.
ANSWER_SECONDS = 10.0


class Pool:
    """At most ``size`` clones for each shape; what they are made from is made where it is missing.

    Snapshots are made for the machines that a language has by default only: whoever asks for
    others could have them made without end.
    """

    def __init__(
        self, store: ImageStore, templates: Templates, admission: Admission, size: int
    ) -> None:
        self._store = store
        self._templates = templates
        self._admission = admission
        self._size = size
        self._shelves: dict[Shape, Shelf] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._endings: set[asyncio.Task[None]] = set()
        admission.reclaim = self._give_way

    @property
    def idle(self) -> int:
        """How many clones wait."""
        return sum(len(shelf.ready) for shelf in self._shelves.values())

    async def take(self, shape: Shape, assets: Assets, options: Options) -> Guest | None:
        """The oldest clone of this shape that answers, if one waits. Another is made for it."""
        shelf = self._demand(shape, assets, options)
        while shelf.ready:
            guest = self._unshelve(shelf.ready[0], shelf)
            guest.mark_taken(StartInfo("pool", "", guest.start_info.machine_reason))
            try:
                # Its clock may have drifted, or the host have slept.
                async with asyncio.timeout(ANSWER_SECONDS):
                    await guest.resync()
            except (SlipwayError, TimeoutError) as error:
                log.warning("a clone of %s was of no use: %s", shape.key, error or "it hangs")
                await run_shielded(guest.stop())
            except BaseException:
                await run_shielded(guest.stop())
                raise
            else:
                shelf.pause = 0.0
                return guest
        # As many were wanted at once as there were, and one more.
        shelf.target = min(shelf.target + 1, self._size)
        self._wake.set()
        return None

    def want(self, shape: Shape, assets: Assets, options: Options) -> None:
        """Have clones ready before the first run."""
        shelf = self._demand(shape, assets, options)
        shelf.target = shelf.least = self._size

    async def close(self) -> None:
        """End all that waits, and what is being made."""
        self._closed = True
        self._admission.reclaim = self._templates.give_way
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for shelf in self._shelves.values():
            self._clear(shelf)
        self._shelves.clear()
        if self._endings:
            await asyncio.wait(self._endings)

    def _demand(self, shape: Shape, assets: Assets, options: Options) -> Shelf:
        shelf = self._shelves.get(shape)
        if shelf is None:
            # Of the run nothing is kept but what makes a machine.
            options = Options(memory=options.memory, cpus=options.cpus, machine=options.machine)
            shelf = Shelf(shape, assets, options)
            # An image that was made anew has another shape; what waits of the old is not wanted.
            for other in [s for s in self._shelves.values() if s.shape.is_same_machine(shape)]:
                shelf.target = shelf.least = other.least
                self._clear(other)
                del self._shelves[other.shape]
                self._templates.drop(other.shape)
            self._shelves[shape] = shelf
        shelf.assets, shelf.used = assets, time.monotonic()
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._keep_filled(), name="slipway-pool")
        self._wake.set()
        return shelf

    # --- What waits ----------------------------------------------------------------------------

    def _shelve(self, guest: Guest, shelf: Shelf, memory: int) -> None:
        idle = Idle(guest, asyncio.create_task(guest.machine.wait()), memory)
        shelf.ready.append(idle)
        idle.watch.add_done_callback(lambda watch: self._ended(idle, shelf, watch))

    def _ended(self, idle: Idle, shelf: Shelf, watch: asyncio.Task[int]) -> None:
        if not watch.cancelled() and idle in shelf.ready:
            log.warning("a clone of %s ended while it waited", shelf.shape.key)
            shelf.failed()
            self._end(idle, shelf)
            self._wake.set()

    def _unshelve(self, idle: Idle, shelf: Shelf) -> Guest:
        shelf.ready.remove(idle)
        idle.watch.cancel()
        self._admission.free(idle.memory)
        return idle.guest

    def _end(self, idle: Idle, shelf: Shelf) -> None:
        ending = asyncio.create_task(self._unshelve(idle, shelf).stop())
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    def _clear(self, shelf: Shelf) -> None:
        while shelf.ready:
            self._end(shelf.ready[0], shelf)

    def _give_way(self, memory: int) -> None:
        """A run needs ``memory`` bytes that clones have which nobody has taken yet."""
        for shelf in sorted(self._shelves.values(), key=lambda shelf: shelf.used):
            while shelf.ready and memory > 0:
                memory -= shelf.ready[0].memory
                self._end(shelf.ready[0], shelf)
                shelf.target = max(shelf.target - 1, shelf.least)
                shelf.rest(TICK_SECONDS)
        self._templates.give_way(memory)

    # --- Filling -------------------------------------------------------------------------------

    async def _keep_filled(self) -> None:
        while True:
            self._wake.clear()
            try:
                self._forget_unused()
                if _short_of_memory():
                    self._give_all()
                elif (shelf := self._shortest()) is not None:
                    # One after the other: they are made beside runs, which need the processors.
                    await self._add(shelf)
                    continue
            except Exception:
                # Runs do without a pool; they do not end with it.
                log.exception("the pool has a bug")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rest()):
                    await self._wake.wait()

    def _rest(self) -> float:
        """Seconds until something may be due."""
        now = time.monotonic()
        due = [s.not_before - now for s in self._shelves.values() if s.not_before > now]
        return min([TICK_SECONDS, *due])

    def _shortest(self) -> Shelf | None:
        """The shelf that has fewest of those that lack some."""
        short = [shelf for shelf in self._shelves.values() if shelf.is_short]
        return min(short, key=lambda shelf: len(shelf.ready), default=None)

    def _forget_unused(self) -> None:
        now = time.monotonic()
        for shelf in list(self._shelves.values()):
            if shelf.least or now - max(shelf.used, shelf.shrunk) <= UNUSED_SECONDS:
                continue
            shelf.target, shelf.shrunk = max(shelf.target - 1, 0), now
            while len(shelf.ready) > shelf.target:
                self._end(shelf.ready[0], shelf)
            if not shelf.target:  # whoever asks for other machines each time leaves nothing
                del self._shelves[shelf.shape]

    def _give_all(self) -> None:
        """The host needs the memory: the clones', and if they are gone, the templates'."""
        if not self.idle:
            self._templates.give_way(self._admission.capacity.memory)
        for shelf in self._shelves.values():
            self._clear(shelf)

    async def _add(self, shelf: Shelf) -> None:
        memory = self._templates.idle_memory(shelf.shape)
        if not self._admission.reserve(memory):
            shelf.rest(TICK_SECONDS)
            return
        guest = None
        try:
            guest = await self._made(shelf)
            # It may have been forgotten, or too many, in the meantime.
            wanted = self._shelves.get(shelf.shape) is shelf and len(shelf.ready) < shelf.target
            if guest is not None and not wanted:
                await run_shielded(guest.stop())
                guest = None
        finally:
            if guest is None:
                self._admission.free(memory)
        if guest is not None:
            needed = min(memory, read_unshared_bytes(guest.machine.pid, memory) + SLACK)
            self._admission.free(memory - needed)
            self._shelve(guest, shelf, needed)
            # A run may have come that lacks just this, and had nothing to take it from.
            self._admission.settle()

    async def _made(self, shelf: Shelf) -> Guest | None:
        try:
            if not self._templates.has(shelf.shape) and not await self._made_snapshot(shelf):
                return None
            guest = await self._templates.clone(shelf.shape, shelf.assets, shelf.options)
            try:
                await guest.prestart(shelf.assets.language)
            except BaseException:
                await run_shielded(guest.stop())
                raise
        except NoSnapshot as error:
            log.warning("%s: %s", shelf.shape.key, error.reason)
        except SlipwayError as error:
            log.warning("no clone of %s can be made: %s", shelf.shape.key, error.message)
        except Exception:
            log.exception("no clone of %s can be made, by a bug of ours", shelf.shape.key)
        else:
            return guest
        shelf.failed()
        return None

    async def _made_snapshot(self, shelf: Shelf) -> bool:
        """Make the template of the shelf; whether there is one now."""
        assets, options = shelf.assets, shelf.options
        if assets.memory != assets.image.default_memory or options.cpus != 1:
            shelf.target = 0
            return False
        needs = assets.memory + self._templates.overhead(shelf.shape)
        if not self._admission.reserve(needs):
            shelf.rest(TICK_SECONDS)
            return False
        try:
            await make(assets, options, self._store, lambda line: log.info("%s", line))
        finally:
            self._admission.free(needs)
        return True


def _short_of_memory() -> bool:
    import psutil

    return bool(psutil.virtual_memory().available < SHORT_OF_MEMORY)
