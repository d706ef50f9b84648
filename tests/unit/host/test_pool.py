"""The pool of clones that wait: who gets one, how many there are, and what is left of them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity, Needs
from slipway._model.input_file import InputFile
from slipway._model.options import Options
from slipway._run.languages import find_language
from slipway._snapshots import pool
from slipway._snapshots.key import SnapshotKey
from slipway._snapshots.pool import BUSY_SECONDS, SLACK, TICK_SECONDS, UNUSED_SECONDS, Pool
from slipway._snapshots.pool_entry import FIRST_BACKOFF
from slipway._util.errors import HostError, ImageError
from slipway._util.shares import Share
from slipway._util.units import MIB
from slipway_initramfs.store.image_store import ImageStore
from support.clock import JumpingClock
from support.fake_machine import IDLE_MEMORY, FakeLauncher, FakeMachine
from support.fake_templates import FakeTemplateCache
from support.sessions import open_files
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway._run.guest import Guest

KEY = SnapshotKey("bash", "amd64", "fake", 128 * MIB, 1, "ab" * 32)
ANEW = replace(KEY, inputs="cd" * 32)
OTHER = replace(KEY, image="python")
CAPACITY = Capacity(machines=100, memory=64 * IDLE_MEMORY, cpus=100, queue=100)


class PoolBench:
    """A pool, and all that it stands on."""

    def __init__(self, store: ImageStore, capacity: Capacity = CAPACITY, size: int = 2) -> None:
        self.launcher = FakeLauncher()
        self.admission = Admission(capacity)
        self.templates = FakeTemplateCache(self.launcher, self.admission)
        self.pool = Pool(store, self.templates, self.admission, size)  # type: ignore[arg-type]
        assets = self.launcher.assets_of(find_language("bash"), Options())
        self.assets = replace(
            assets, image=replace(assets.image, manifest={"memory": 0, "workload": 0})
        )
        self.guests: list[Guest] = []

    async def take(self, key: SnapshotKey = KEY) -> Guest | None:
        """What a run gets; stopped at the test's end."""
        guest = await self.pool.take(key, self.assets, Options())
        if guest is not None:
            self.guests.append(guest)
        return guest

    def prewarm(self, key: SnapshotKey = KEY) -> None:
        self.pool.prewarm(key, self.assets, Options())

    async def wait_filled(self, count: int) -> None:
        """Until so many clones wait."""
        await wait_until(lambda: self.pool.idle == count, "so many clones wait")

    def waiting(self, key: SnapshotKey = KEY) -> list[Any]:
        """The machines that wait, the oldest first."""
        entry = self.pool.entries.get(key)
        return [idle.guest.machine for idle in entry.ready] if entry is not None else []

    def read_desired(self, key: SnapshotKey = KEY) -> int:
        return self.pool.entries[key].desired


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SHORT_OF_MEMORY", 0)
    monkeypatch.setattr(pool, "read_unshared_bytes", lambda _pid, most: most)


@pytest_asyncio.fixture
async def ground(tmp_path: Path) -> AsyncIterator[PoolBench]:
    JumpingClock()
    before = open_files()
    made = PoolBench(ImageStore(tmp_path))
    yield made
    await end(made)
    await wait_until(lambda: open_files() <= before, "no file is left open")


async def end(ground: PoolBench) -> None:
    """Close it; nothing is left."""
    for guest in ground.guests:
        await guest.stop()
    await ground.pool.close()
    nothing_left(ground)


def nothing_left(ground: PoolBench) -> None:
    assert not ground.launcher.machines
    assert ground.pool.idle == 0
    assert ground.admission.reserved == 0
    assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []


# --- Filling ----------------------------------------------------------------------------------


async def test_no_clone_is_made_while_runs_have_all_processors(
    ground: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "BUSY_SECONDS", float("inf"))
    ticket = ground.admission.enter(Share(), Needs(0, CAPACITY.cpus))
    await ground.take()
    await asyncio.sleep(10 * TICK_SECONDS)
    made = ground.templates.made

    ground.admission.leave(ticket)
    await ground.wait_filled(1)

    assert made == 0


async def test_clones_are_made_slowly_while_all_processors_belong_to_runs_that_do_not_end(
    ground: PoolBench,
) -> None:
    times = []

    async def note_time() -> None:
        times.append(asyncio.get_running_loop().time())

    ground.templates.cloning = note_time
    ticket = ground.admission.enter(Share(), Needs(0, CAPACITY.cpus))
    ground.prewarm()
    await ground.wait_filled(2)
    ground.admission.leave(ticket)

    assert times[1] - times[0] >= BUSY_SECONDS


# --- Taking -----------------------------------------------------------------------------------


async def test_first_run_finds_none_and_the_next_the_one_made_for_it(ground: PoolBench) -> None:
    first = await ground.take()
    await ground.wait_filled(1)
    (waiting,) = ground.waiting()

    second = await ground.take()

    assert first is None
    assert second is not None
    assert second.machine == waiting
    assert (second.start_info.start, second.start_info.machine_reason) == ("pool", "a test's")
    assert waiting.agent.hellos[:3] == [True, False, False]


async def test_oldest_is_taken_first_and_replaced(ground: PoolBench) -> None:
    ground.prewarm()
    await ground.wait_filled(2)
    oldest, newer = ground.waiting()

    taken = await ground.take()
    await ground.wait_filled(2)

    assert taken is not None
    assert taken.machine is oldest
    assert ground.waiting()[0] is newer
    assert ground.templates.made == 3


async def test_there_come_to_be_as_many_as_are_wanted_at_once(ground: PoolBench) -> None:
    targets = []

    for _ in range(4):
        await ground.take()
        targets.append(ground.read_desired())

    await ground.wait_filled(2)
    assert targets == [1, 2, 2, 2]


async def test_one_is_enough_for_who_wants_one_after_the_other(ground: PoolBench) -> None:
    await ground.take()

    for _ in range(5):
        await ground.wait_filled(1)
        assert await ground.take() is not None

    assert ground.read_desired() == 1


async def test_each_shape_has_its_own(ground: PoolBench) -> None:
    await ground.take()
    await ground.take(OTHER)
    await ground.wait_filled(2)

    assert [len(ground.waiting(key)) for key in (KEY, OTHER)] == [1, 1]


async def test_image_that_is_made_anew_replaces_what_waits(ground: PoolBench) -> None:
    ground.prewarm()
    await ground.wait_filled(2)
    old = ground.waiting()

    first = await ground.take(ANEW)
    await wait_until(lambda: len(ground.waiting(ANEW)) == 2, "two clones of the new image wait")

    assert first is None
    assert not ground.launcher.machines & set(old)
    assert ground.waiting() == []
    assert ground.templates.dropped == [KEY]
    assert (ground.read_desired(ANEW), ground.pool.entries[ANEW].minimum) == (2, 2)


async def test_nothing_of_a_run_is_kept_with_the_clones_for_others(ground: PoolBench) -> None:
    options = Options(files=(InputFile("secret", b"x"),), environment=(("SECRET", "x"),), cpus=1)

    await ground.pool.take(KEY, ground.assets, options)

    assert ground.pool.entries[KEY].options == Options()


# --- Clones that fail ---------------------------------------------------------------------------


async def test_clone_that_dies_while_it_waits_is_replaced(ground: PoolBench) -> None:
    ground.prewarm()
    await ground.wait_filled(2)
    first, second = ground.waiting()

    first.die()
    await wait_until(
        lambda: ground.templates.made == 3 and ground.pool.idle == 2,
        "a third template was made and two clones wait",
    )

    assert first not in ground.waiting()
    assert ground.waiting()[0] is second


async def test_clone_that_has_just_died_is_not_given_out(ground: PoolBench) -> None:
    ground.prewarm()
    await ground.wait_filled(2)
    first, second = ground.waiting()

    first.die()
    taken = await ground.take()

    assert taken is not None
    assert taken.machine is second


async def test_pause_grows_while_clones_die_and_ends_with_one_that_is_of_use(
    ground: PoolBench,
) -> None:
    await ground.take()
    entry = ground.pool.entries[KEY]
    pauses: list[float] = []

    for _ in range(4):
        await ground.wait_filled(1)
        ground.waiting()[0].die()
        await wait_until(lambda: entry.backoff not in [0, *pauses], "the pause has grown")
        pauses.append(entry.backoff)
    await ground.wait_filled(1)
    await ground.take()

    assert pauses == [FIRST_BACKOFF * factor for factor in (1, 2, 4, 8)]
    assert entry.backoff == 0


async def test_clone_that_does_not_answer_is_stopped_and_the_next_taken(ground: PoolBench) -> None:
    ground.prewarm()
    await ground.wait_filled(2)
    first, second = ground.waiting()
    first.hush()

    taking = asyncio.create_task(ground.take())
    await wait_until(lambda: first not in ground.waiting(), "the first clone waits no more")
    taken = await taking

    assert taken is not None
    assert taken.machine is second
    assert first not in ground.launcher.machines


async def test_run_that_is_cancelled_while_it_takes_one_leaves_nothing(ground: PoolBench) -> None:
    ground.prewarm()
    await ground.wait_filled(2)
    first, _ = ground.waiting()
    first.hush()

    taking = asyncio.create_task(ground.take())
    await wait_until(lambda: first not in ground.waiting(), "the first clone waits no more")
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)

    assert taking.cancelled()
    assert first not in ground.launcher.machines


# --- Making -------------------------------------------------------------------------------------


async def raising(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [HostError("no room"), ValueError("a bug")], ids=["host", "bug"])
async def test_making_that_fails_is_tried_again_later(ground: PoolBench, error: Exception) -> None:
    ground.templates.cloning = lambda: raising(error)
    await ground.take()
    await wait_until(lambda: ground.templates.made == 3, "three templates were made")
    ground.templates.cloning = None

    await ground.wait_filled(1)

    assert await ground.take() is not None


async def test_failure_to_clone_is_logged_and_not_the_end(
    ground: PoolBench, caplog: pytest.LogCaptureFixture
) -> None:
    ground.templates.reasons = ["the snapshot is damaged"]

    with caplog.at_level(logging.WARNING, "slipway.pool"):
        await ground.take()
        await ground.wait_filled(1)

    assert "the snapshot is damaged" in caplog.text


async def test_bug_of_the_pool_itself_is_not_its_end(
    ground: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SHORT_OF_MEMORY", "of a type that cannot be compared")
    await ground.take()
    await asyncio.sleep(2 * TICK_SECONDS)
    monkeypatch.setattr(pool, "SHORT_OF_MEMORY", 0)

    await ground.wait_filled(1)


async def test_clone_that_nobody_wants_any_more_is_ended(ground: PoolBench) -> None:
    going_on = asyncio.Event()
    ground.templates.cloning = lambda: wait_for(going_on)
    await ground.take()
    await wait_until(lambda: ground.templates.made == 1, "a template was made")

    ground.templates.cloning = None
    await ground.take(ANEW)
    going_on.set()
    await wait_until(lambda: ground.waiting(ANEW), "a clone of the new image waits")

    assert ground.launcher.machines == set(ground.waiting(ANEW))
    assert ground.admission.reserved == IDLE_MEMORY


async def wait_for(event: asyncio.Event) -> None:
    await wait_until(event.is_set, "the test lets the clone be made")


class Making:
    """Takes the place of the making of snapshots."""

    def __init__(self, ground: PoolBench, error: Exception | None = None) -> None:
        self.ground = ground
        self.error = error
        self.calls = 0
        self.reserved = 0
        ground.templates.there = False

    async def __call__(self, assets: Assets, *_: object) -> None:
        self.calls += 1
        self.reserved = self.ground.admission.reserved
        if self.error is not None:
            raise self.error
        self.ground.templates.there = True


async def test_snapshot_that_is_missing_is_made_once(
    ground: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    making = Making(ground)
    monkeypatch.setattr(pool, "create_sound_snapshot", making)
    ground.assets = replace(ground.assets, memory=ground.assets.image.default_memory)

    ground.prewarm()
    await ground.wait_filled(2)

    assert making.calls == 1
    assert making.reserved > ground.assets.memory


async def test_snapshot_of_a_size_that_somebody_chose_is_not_made(
    ground: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    making = Making(ground)
    monkeypatch.setattr(pool, "create_sound_snapshot", making)
    ground.assets = replace(ground.assets, memory=ground.assets.image.default_memory + MIB)

    for _ in range(3):
        await ground.take()
        await wait_until(lambda: ground.read_desired() == 0, "no clone is wanted")

    assert making.calls == 0


async def test_snapshot_that_cannot_be_made_is_tried_again_later(
    ground: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    making = Making(ground, ImageError("the sample fails"))
    monkeypatch.setattr(pool, "create_sound_snapshot", making)
    ground.assets = replace(ground.assets, memory=ground.assets.image.default_memory)

    await ground.take()
    await wait_until(lambda: making.calls == 2, "making was tried twice")
    making.error = None

    await ground.wait_filled(1)


# --- Memory -------------------------------------------------------------------------------------


async def test_run_that_lacks_memory_takes_it_from_what_waits(ground: PoolBench) -> None:
    ground.prewarm()
    await ground.wait_filled(2)
    needs = Needs(CAPACITY.memory - IDLE_MEMORY, 1)

    ticket = ground.admission.enter(Share(), needs)

    assert ticket.is_admitted
    assert (ground.pool.idle, ground.admission.reserved) == (1, IDLE_MEMORY)
    ground.admission.leave(ticket)


async def test_least_recently_used_entries_are_evicted_first(ground: PoolBench) -> None:
    ground.prewarm(OTHER)
    ground.prewarm(KEY)
    await ground.wait_filled(4)

    ticket = ground.admission.enter(Share(), Needs(CAPACITY.memory - 2 * IDLE_MEMORY, 1))

    assert [len(ground.waiting(key)) for key in (OTHER, KEY)] == [0, 2]
    ground.admission.leave(ticket)


async def test_what_gave_way_and_is_to_be_warm_comes_back(ground: PoolBench) -> None:
    ground.prewarm()
    await ground.wait_filled(2)
    ticket = ground.admission.enter(Share(), Needs(CAPACITY.memory, 1))
    idle = ground.pool.idle

    ground.admission.leave(ticket)
    await ground.wait_filled(2)

    assert idle == 0


async def test_run_that_comes_while_a_clone_is_made_gets_its_memory(ground: PoolBench) -> None:
    going_on = asyncio.Event()
    ground.templates.cloning = lambda: wait_for(going_on)
    await ground.take()
    await wait_until(lambda: ground.templates.made == 1, "a template was made")
    ticket = ground.admission.enter(Share(), Needs(CAPACITY.memory, 1))
    at_once = ticket.is_admitted

    going_on.set()
    await wait_until(lambda: ticket.is_admitted, "the run is admitted")

    assert not at_once
    assert ground.pool.idle == 0
    ground.admission.leave(ticket)


async def test_clone_that_waits_has_reserved_what_it_has_for_itself(
    ground: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "read_unshared_bytes", lambda _pid, _most: 20 * MIB)

    ground.prewarm()
    await ground.wait_filled(2)
    waiting = ground.admission.reserved
    await ground.take()
    await ground.wait_filled(2)

    assert waiting == ground.admission.reserved == 2 * (20 * MIB + SLACK)


async def test_clone_that_has_more_than_was_reserved_keeps_what_was(
    ground: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "read_unshared_bytes", lambda _pid, most: 2 * most)

    await ground.take()
    await ground.wait_filled(1)

    assert ground.admission.reserved == IDLE_MEMORY


async def test_nothing_is_made_without_room_and_is_when_there_is(ground: PoolBench) -> None:
    ticket = ground.admission.enter(Share(), Needs(CAPACITY.memory - IDLE_MEMORY + 1, 1))
    await ground.take()
    await asyncio.sleep(10 * TICK_SECONDS)
    made = ground.templates.made

    ground.admission.leave(ticket)
    await ground.wait_filled(1)

    assert made == 0


async def test_host_that_is_short_of_memory_gets_all_of_it(
    ground: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.prewarm()
    await ground.wait_filled(2)

    monkeypatch.setattr(pool, "SHORT_OF_MEMORY", 1 << 62)
    await wait_until(
        lambda: not ground.launcher.machines and ground.templates.asked,
        "a template was asked for, and no machine is left",
    )
    nothing_made = await ground.take() is None
    monkeypatch.setattr(pool, "SHORT_OF_MEMORY", 0)
    await ground.wait_filled(2)

    assert nothing_made
    assert ground.templates.asked[0] >= CAPACITY.memory


async def test_unused_ones_become_fewer_and_warm_ones_do_not(ground: PoolBench) -> None:
    ground.prewarm(OTHER)
    await ground.take()
    await ground.wait_filled(3)

    await wait_until(lambda: KEY not in ground.pool.entries, "the pool has forgotten the key")
    await asyncio.sleep(10 * UNUSED_SECONDS)

    assert len(ground.waiting(OTHER)) == 2
    assert ground.launcher.machines == set(ground.waiting(OTHER))


# --- The end ------------------------------------------------------------------------------------


async def test_closing_in_the_middle_of_a_making_leaves_nothing(ground: PoolBench) -> None:
    ground.templates.cloning = lambda: wait_for(asyncio.Event())
    await ground.take()
    await wait_until(lambda: ground.templates.made == 1, "a template was made")

    await ground.pool.close()

    nothing_left(ground)


async def test_closing_in_the_middle_of_making_a_snapshot_leaves_nothing(
    ground: PoolBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def make(*_: object) -> None:
        begun.set()
        await wait_for(asyncio.Event())

    ground.templates.there = False
    ground.assets = replace(ground.assets, memory=ground.assets.image.default_memory)
    monkeypatch.setattr(pool, "create_sound_snapshot", make)
    await ground.take()
    await wait_until(begun.is_set, "a snapshot is being made")

    await ground.pool.close()

    nothing_left(ground)


async def test_pool_that_is_closed_makes_nothing_more(ground: PoolBench) -> None:
    await ground.pool.close()

    assert await ground.take() is None
    await asyncio.sleep(10 * TICK_SECONDS)

    assert ground.templates.made == 0


async def test_closed_at_any_moment_nothing_is_left(tmp_path: Path) -> None:
    for steps in range(60):
        ground = PoolBench(ImageStore(tmp_path))
        ground.prewarm()
        for _ in range(steps):
            await asyncio.sleep(0)

        await ground.pool.close()

        await wait_until(lambda g=ground: not g.launcher.machines, "no machine is left")  # type: ignore[misc, arg-type]
        nothing_left(ground)


async def test_a_thousand_runs_leave_nothing(ground: PoolBench) -> None:
    async def run(_number: int) -> str:
        ticket = ground.admission.enter(Share(), Needs(IDLE_MEMORY, 1))
        await wait_until(lambda: ticket.is_admitted, "the run is admitted")
        guest = await ground.pool.take(KEY, ground.assets, Options())
        if guest is None:
            guest = await ground.templates.clone(KEY, ground.assets, Options())
        assert isinstance(guest.machine, FakeMachine)
        try:
            told = str(id(guest.machine))
        finally:
            await guest.stop()
            ground.admission.leave(ticket)
        return told

    numbers = iter(range(1000))
    done = 0

    async def worker() -> None:
        nonlocal done
        for number in numbers:
            await run(number)
            done += 1

    await asyncio.gather(*(worker() for _ in range(4)))

    assert done == 1000
    assert ground.admission.load.memory == 0
