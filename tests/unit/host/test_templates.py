"""TemplateCache: what becomes of snapshots that are missing, damaged, or cannot be cloned."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity, Needs
from slipway._model.options import Options
from slipway._run.guest import Guest
from slipway._run.languages import find_language
from slipway._run.start_info import StartInfo
from slipway._snapshots import create
from slipway._snapshots.create import create_snapshot
from slipway._snapshots.creation_lock import hold_creation
from slipway._snapshots.key import NoSnapshot, SnapshotKey
from slipway._snapshots.lease import is_leased
from slipway._snapshots.store import SnapshotStore
from slipway._snapshots.templates import TemplateCache
from slipway._util.errors import HostError, ImageError
from slipway._util.shares import Share
from slipway_initramfs.store.image_store import ImageStore
from support.clock import JumpingClock
from support.fake_templates import MEMORY, MIB, StoredHypervisor, stored_snapshot
from support.sessions import open_files
from support.stores import put_image
from support.waiting import block_until, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway._snapshots.stored_snapshot import StoredSnapshot
    from slipway.machine.model import Snapshot
    from support.fake_machine import FakeLauncher

CAPACITY = Capacity(machines=10, memory=100 * MIB, cpus=10, queue=10)


class TemplateBench:
    """A store with one snapshot, and a machine of which it is."""

    def __init__(self, root: Path) -> None:
        self.images = ImageStore(root)
        self.hypervisor = StoredHypervisor()
        self.launcher: FakeLauncher = self.hypervisor.launcher
        self.admission = Admission(CAPACITY)
        self.options = Options()
        image = put_image(self.images)
        assets = self.launcher.assets_of(find_language("bash"), self.options)
        self.assets: Assets = replace(assets, image=image, memory=MEMORY)
        self.key = SnapshotKey.of(self.assets, 1)
        self.store = SnapshotStore(self.images)
        snapshot = stored_snapshot()
        self.stored: StoredSnapshot = self.store.save(self.key, snapshot)
        snapshot.close()
        self.templates: TemplateCache

    def open(self, *, shared: bool) -> TemplateCache:
        self.templates = TemplateCache(self.images, self.admission if shared else None)
        return self.templates

    async def clone(self) -> Guest | str:
        """A clone, or the reason why there is none."""
        try:
            return await self.templates.clone(self.key, self.assets, self.options)
        except NoSnapshot as error:
            return error.reason

    @property
    def is_there(self) -> bool:
        """Whether the store has the snapshot still."""
        return self.store.find(self.key) is not None

    def damage(self, part: str) -> None:
        """Flip one bit of its ``part``."""
        path = getattr(self.stored, part).path
        with path.open("r+b") as file:
            (byte,) = file.read(1)
            file.seek(0)
            file.write(bytes([byte ^ 4]))


@pytest_asyncio.fixture
async def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TemplateBench]:
    made = TemplateBench(tmp_path)
    made.open(shared=True)
    await asyncio.to_thread(lambda: None)  # the loop's threads have files of their own
    before = open_files()
    yield made
    await made.templates.close()
    assert not made.launcher.machines
    assert made.admission.reserved == 0
    assert not [template for template in made.hypervisor.templates if template.is_open]
    await wait_until(lambda: open_files() <= before, "no file is left open")
    await wait_until(lambda: len(asyncio.all_tasks()) == 1, "no task is left but the test")


both = pytest.mark.parametrize("shared", [True, False], ids=["shared", "alone"])


async def raising(error: Exception) -> None:
    raise error


async def never() -> None:
    await asyncio.get_running_loop().create_future()


# --- What is sound ------------------------------------------------------------------------------


@both
async def test_clone_of_what_is_sound_answers(ground: TemplateBench, shared: bool) -> None:
    ground.open(shared=shared)

    guest = await ground.clone()

    assert isinstance(guest, Guest)
    assert guest.start_info == StartInfo("snapshot", "", "a test's")
    assert guest.ready is not None
    assert ground.is_there
    await guest.stop()


async def test_first_clones_at_once_open_the_template_once(ground: TemplateBench) -> None:
    guests = await asyncio.gather(*(ground.clone() for _ in range(5)))

    assert all(isinstance(guest, Guest) for guest in guests)
    assert len(ground.hypervisor.templates) == 1
    assert ground.admission.reserved == ground.stored.disk_bytes
    for guest in guests:
        assert isinstance(guest, Guest)
        await guest.stop()


async def test_nothing_is_remembered_of_shapes_that_have_no_snapshot(ground: TemplateBench) -> None:
    for cpus in range(2, 10):
        key = SnapshotKey.of(ground.assets, cpus)
        with pytest.raises(NoSnapshot, match=r"^no matching snapshot$"):
            await ground.templates.clone(key, ground.assets, ground.options)

    assert not ground.templates._locks
    assert not ground.templates._failures


async def test_without_room_there_is_no_template(ground: TemplateBench) -> None:
    ticket = ground.admission.enter(Share(), Needs(CAPACITY.memory, 1))

    reason = await ground.clone()

    assert reason == "no room for the snapshot beside the runs"
    assert ground.is_there
    ground.admission.leave(ticket)


async def test_host_without_room_for_a_copy_keeps_the_snapshot(
    ground: TemplateBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_store: SnapshotStore, _stored: StoredSnapshot) -> Snapshot:
        raise HostError("no space")

    monkeypatch.setattr(SnapshotStore, "load", full)

    reasons = [await ground.clone() for _ in range(3)]

    assert reasons == ["no room for the snapshot: no space"] * 3
    assert ground.is_there


# --- What is not --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("part", ["memory", "state"])
async def test_damaged_snapshot_is_told_and_removed(
    ground: TemplateBench, shared: bool, part: str
) -> None:
    ground.open(shared=shared)
    ground.damage(part)

    reason = await ground.clone()

    assert isinstance(reason, str)
    assert "is damaged" in reason
    assert not ground.is_there


@both
async def test_snapshot_that_has_lost_a_file_is_told_and_removed(
    ground: TemplateBench, shared: bool
) -> None:
    ground.open(shared=shared)
    ground.stored.state.path.unlink()

    reason = await ground.clone()

    assert isinstance(reason, str)
    assert "was removed" in reason
    assert not ground.is_there


@pytest.mark.parametrize("mood", ["", "silent", "dies"])
async def test_damage_that_is_found_after_the_clone_ran_ends_it(
    ground: TemplateBench, mood: str
) -> None:
    ground.open(shared=False)
    ground.damage("memory")
    ground.hypervisor.moods[:] = [mood]

    reason = await ground.clone()

    assert isinstance(reason, str)
    assert "is damaged" in reason
    assert not ground.launcher.machines


async def test_damage_explains_what_the_machine_cannot_read(ground: TemplateBench) -> None:
    ground.open(shared=False)
    ground.damage("state")
    ground.hypervisor.opening = lambda: raising(HostError("what is this"))

    reason = await ground.clone()

    assert isinstance(reason, str)
    assert "is damaged" in reason


@both
async def test_snapshot_that_its_machine_refuses_repeatedly_is_removed(
    ground: TemplateBench, shared: bool
) -> None:
    ground.open(shared=shared)
    openings = []

    async def refuse() -> None:
        openings.append(1)
        raise HostError("what is this")

    ground.hypervisor.opening = refuse

    reasons = [await ground.clone() for _ in range(2 if shared else 1)]

    assert len(openings) == 2
    assert reasons[-1] == "the snapshot cannot be used, and was removed: what is this"
    assert not ground.is_there


async def test_clone_that_fails_once_has_the_template_opened_anew(ground: TemplateBench) -> None:
    ground.launcher.cloning = lambda: raising(HostError("no process"))
    reason = await ground.clone()
    ground.launcher.cloning = None

    guest = await ground.clone()

    assert reason == "the snapshot cannot be cloned: no process"
    assert isinstance(guest, Guest)
    assert len(ground.hypervisor.templates) == 2
    assert ground.is_there
    await guest.stop()


async def test_clones_that_fail_twice_in_a_row_have_the_snapshot_removed(
    ground: TemplateBench,
) -> None:
    ground.launcher.cloning = lambda: raising(HostError("no process"))

    reasons = [await ground.clone() for _ in range(3)]

    assert reasons == [
        "the snapshot cannot be cloned: no process",
        "the snapshot cannot be cloned, and was removed: no process",
        "no matching snapshot",
    ]


async def test_success_between_two_failures_forgives_the_first(ground: TemplateBench) -> None:
    for mood in ("dies", "", "dies", ""):
        ground.hypervisor.moods[:] = [mood]
        guest = await ground.clone()
        if isinstance(guest, Guest):
            await guest.stop()

    assert ground.is_there


async def test_clones_that_fail_together_count_once(ground: TemplateBench) -> None:
    ground.hypervisor.moods[:] = ["dies"] * 4

    reasons = await asyncio.gather(*(ground.clone() for _ in range(4)))

    assert all(isinstance(reason, str) for reason in reasons)
    assert ground.is_there


async def test_clone_that_dies_at_restore_is_told(ground: TemplateBench) -> None:
    ground.hypervisor.moods[:] = ["dies", "dies"]

    reasons = [await ground.clone() for _ in range(2)]

    assert all("failed" in str(reason) for reason in reasons)
    assert not ground.is_there


async def test_single_run_whose_clone_dies_takes_another(ground: TemplateBench) -> None:
    ground.open(shared=False)
    ground.hypervisor.moods[:] = ["dies"]

    guest = await ground.clone()

    assert isinstance(guest, Guest)
    assert ground.is_there
    await guest.stop()


async def test_single_run_removes_a_snapshot_of_which_two_clones_die(ground: TemplateBench) -> None:
    ground.open(shared=False)
    ground.hypervisor.moods[:] = ["dies", "dies"]

    reason = await ground.clone()

    assert "failed, and was removed" in str(reason)
    assert not ground.is_there


@both
async def test_clones_that_do_not_answer_in_time_cost_no_snapshot(
    ground: TemplateBench, shared: bool
) -> None:
    JumpingClock()
    ground.open(shared=shared)
    ground.hypervisor.moods[:] = ["silent"] * 3

    reasons = [str(await ground.clone()) for _ in range(3)]
    guest = await ground.clone()

    assert all("did not continue within" in reason for reason in reasons)
    assert ground.is_there
    assert isinstance(guest, Guest)
    await guest.stop()


async def test_single_run_that_cannot_start_a_machine_keeps_the_snapshot(
    ground: TemplateBench,
) -> None:
    ground.open(shared=False)
    ground.launcher.cloning = lambda: raising(HostError("no process"))

    reasons = [await ground.clone() for _ in range(3)]

    assert reasons == ["the snapshot cannot be cloned: no process"] * 3
    assert ground.is_there


async def test_failure_of_one_does_not_close_the_template_under_another(
    ground: TemplateBench,
) -> None:
    going_on = asyncio.Event()
    ground.launcher.cloning = going_on.wait  # type: ignore[assignment]
    slow = asyncio.create_task(ground.clone())
    await wait_until(lambda: ground.templates.count, "a template is open")
    ground.launcher.cloning = None
    ground.hypervisor.moods[:] = ["dies"]

    failed = await ground.clone()
    going_on.set()
    guest = await slow

    assert isinstance(failed, str)
    assert isinstance(guest, Guest)
    await guest.stop()
    await wait_until(
        lambda: not ground.hypervisor.templates[0].is_open, "the first template is closed"
    )


# --- Making way ---------------------------------------------------------------------------------


async def test_run_that_lacks_memory_takes_that_of_a_template(ground: TemplateBench) -> None:
    guest = await ground.clone()
    assert isinstance(guest, Guest)

    ticket = ground.admission.enter(Share(), Needs(CAPACITY.memory, 1))

    assert ticket.is_admitted
    assert ground.admission.reserved == 0
    ground.admission.leave(ticket)
    await guest.stop()


async def test_template_in_use_makes_way_when_it_is_not_any_more(ground: TemplateBench) -> None:
    going_on = asyncio.Event()
    ground.launcher.cloning = going_on.wait  # type: ignore[assignment]
    cloning = asyncio.create_task(ground.clone())
    await wait_until(lambda: ground.templates.count, "a template is open")

    ticket = ground.admission.enter(Share(), Needs(CAPACITY.memory, 1))
    at_once = ticket.is_admitted
    going_on.set()
    guest = await cloning

    assert isinstance(guest, Guest)
    assert not at_once
    assert ticket.is_admitted
    ground.admission.leave(ticket)
    await guest.stop()


async def test_template_that_made_way_is_opened_again(ground: TemplateBench) -> None:
    first = await ground.clone()
    ground.templates.evict(1)
    second = await ground.clone()

    assert len(ground.hypervisor.templates) == 2
    for guest in (first, second):
        assert isinstance(guest, Guest)
        await guest.stop()


# --- Cancelling ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("where", ["opening", "cloning", "answering"])
async def test_run_that_is_cancelled_leaves_nothing(
    ground: TemplateBench, shared: bool, where: str
) -> None:
    clock = JumpingClock()
    ground.open(shared=shared)
    if where == "opening":
        ground.hypervisor.opening = never
    elif where == "cloning":
        ground.launcher.cloning = never
    else:
        ground.hypervisor.moods[:] = ["silent"]
    cloning = asyncio.create_task(ground.clone())
    await clock.idle()

    cloning.cancel()
    await asyncio.gather(cloning, return_exceptions=True)

    assert cloning.cancelled()
    assert not ground.launcher.machines
    assert ground.is_there


async def test_run_that_is_cancelled_while_the_copy_is_read_leaves_nothing(
    ground: TemplateBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, going_on = threading.Event(), threading.Event()
    load = SnapshotStore.load

    def slow(store: SnapshotStore, stored: StoredSnapshot) -> Snapshot:
        reading.set()
        block_until(going_on.is_set, "the test lets the thread go on")
        return load(store, stored)

    monkeypatch.setattr(SnapshotStore, "load", slow)
    before = open_files()
    cloning = asyncio.create_task(ground.clone())
    await wait_until(reading.is_set, "the snapshot is being read")

    clock = JumpingClock()
    cloning.cancel()
    await clock.idle()
    going_on.set()
    await asyncio.gather(cloning, return_exceptions=True)

    assert cloning.cancelled()
    assert ground.admission.reserved == 0
    assert open_files() == before


@both
async def test_cancelled_at_any_moment_nothing_is_left(ground: TemplateBench, shared: bool) -> None:
    await asyncio.to_thread(lambda: None)
    before = open_files()
    for steps in range(60):
        ground.open(shared=shared)
        cloning = asyncio.create_task(ground.clone())
        for _ in range(steps):
            await asyncio.sleep(0)
        cloning.cancel()
        (ended,) = await asyncio.gather(cloning, return_exceptions=True)
        if isinstance(ended, Guest):
            await ended.stop()
        await ground.templates.close()

        assert not ground.launcher.machines
        assert ground.admission.reserved == 0
        await wait_until(lambda: open_files() <= before, "no file is left open")


# --- Making -------------------------------------------------------------------------------------


class Booting:
    """Takes the place of the launcher that boots templates."""

    def __init__(self, ground: TemplateBench) -> None:
        self.ground = ground

    def __call__(self, _store: ImageStore) -> Booting:
        return self

    async def launch(self, assets: Assets, options: Options, *, template: bool) -> Guest:
        assert template
        guest = Guest(await self.ground.hypervisor.boot())
        try:
            await guest.wait_ready()
        except BaseException:
            await guest.stop()
            raise
        return guest


@pytest.fixture
def making(ground: TemplateBench, monkeypatch: pytest.MonkeyPatch) -> TemplateBench:
    """A store whose snapshot has to be made."""
    monkeypatch.setattr(create, "ColdLauncher", Booting(ground))
    ground.assets = replace(
        ground.assets, language=replace(ground.assets.language, sample="print hello")
    )
    ground.key = SnapshotKey.of(ground.assets, 1)
    assert not ground.is_there
    return ground


async def make_it(ground: TemplateBench) -> StoredSnapshot:
    return await create_snapshot(ground.assets, ground.options, ground.images, lambda line: None)


async def test_what_is_made_is_found_and_can_be_cloned(making: TemplateBench) -> None:
    stored = await make_it(making)
    guest = await making.clone()

    assert stored.key == making.key
    assert isinstance(guest, Guest)
    await guest.stop()


async def test_two_that_create_the_same_snapshot_boot_once(making: TemplateBench) -> None:
    ended: list[StoredSnapshot] = []
    lines: list[str] = []

    async def create_once() -> None:
        assets, options = making.assets, making.options
        ended.append(await create_snapshot(assets, options, making.images, lines.append))

    await asyncio.gather(create_once(), create_once(), create_once())

    assert ended[0] == ended[1] == ended[2]
    assert len([line for line in lines if line.endswith(": booting")]) == 1
    assert len([line for line in lines if line.startswith("waiting for another process")]) == 2


async def test_one_creates_the_snapshot_after_another_has_failed(making: TemplateBench) -> None:
    async def fail() -> None:
        async with hold_creation(making.images, making.key, print):
            await asyncio.sleep(0.01)
            raise HostError("no")

    first = asyncio.create_task(fail())
    await asyncio.sleep(0)
    second = asyncio.create_task(make_it(making))
    await asyncio.gather(first, return_exceptions=True)

    assert (await second).key == making.key


async def test_snapshot_over_the_budget_is_refused_before_a_boot(making: TemplateBench) -> None:
    lines: list[str] = []
    most = making.assets.image.manifest["memory"]

    with pytest.raises(ImageError, match="the budget for snapshots is") as error:
        await create_snapshot(making.assets, making.options, making.images, lines.append, most - 1)

    assert "--snapshot-budget" in error.value.hint
    assert lines == []
    assert not making.is_there


async def test_stale_snapshot_is_told_with_the_part_that_differs(ground: TemplateBench) -> None:
    parts = {**dict(ground.key.parts), "kernel": "other"}
    ground.key = replace(ground.key, inputs="ab" * 32, parts=tuple(parts.items()))

    reason = await ground.clone()

    assert reason == (f"no matching snapshot: {ground.key.name} is stale (the kernel was replaced)")
    assert len(ground.store.list()) == 1


@both
async def test_snapshot_of_an_open_template_is_in_use(ground: TemplateBench, shared: bool) -> None:
    ground.open(shared=shared)

    guest = await ground.clone()
    assert isinstance(guest, Guest)
    await guest.stop()
    during = is_leased(ground.stored)
    await ground.templates.close()

    assert (during, is_leased(ground.stored)) == (True, False)


async def test_clone_notes_the_use_of_its_snapshot(ground: TemplateBench) -> None:
    os.utime(ground.stored.reference, (1000, 1000))

    guest = await ground.clone()

    assert isinstance(guest, Guest)
    await guest.stop()
    (stored,) = ground.store.list()
    assert stored.used > 1000


async def test_sample_that_fails_makes_no_snapshot(making: TemplateBench) -> None:
    language = replace(making.assets.language, sample="error oh no\nexit 3")
    making.assets = replace(making.assets, language=language)

    with pytest.raises(ImageError, match="sample program of bash fails: oh no"):
        await make_it(making)

    assert not making.is_there


@pytest.mark.parametrize("mood", ["dies", "refused", "uncloned"])
async def test_what_cannot_be_cloned_is_not_kept(making: TemplateBench, mood: str) -> None:
    making.hypervisor.moods[:] = [mood]
    if mood == "refused":
        making.hypervisor.opening = lambda: raising(HostError("what is this"))
    if mood == "uncloned":
        making.launcher.cloning = lambda: raising(HostError("no process"))

    with pytest.raises(HostError):
        await make_it(making)

    assert not making.is_there


async def test_making_that_is_cancelled_while_it_saves_closes_no_file_too_early(
    making: TemplateBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving, going_on = threading.Event(), threading.Event()
    save, sizes = SnapshotStore.save, []

    def slow(
        store: SnapshotStore, key: SnapshotKey, snapshot: Snapshot, budget: int | None
    ) -> StoredSnapshot:
        saving.set()
        block_until(going_on.is_set, "the test lets the thread go on")
        sizes.append(os.fstat(snapshot.memory).st_size)
        return save(store, key, snapshot, budget)

    monkeypatch.setattr(SnapshotStore, "save", slow)
    task = asyncio.create_task(make_it(making))
    await wait_until(saving.is_set, "the snapshot is being saved")

    clock = JumpingClock()
    task.cancel()
    await clock.idle()
    going_on.set()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert sizes == [MEMORY]


async def test_making_that_is_cancelled_at_any_moment_leaves_nothing(making: TemplateBench) -> None:
    await asyncio.to_thread(lambda: None)
    before = open_files()
    for steps in range(0, 120, 2):
        task = asyncio.create_task(make_it(making))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert not making.launcher.machines
        await wait_until(lambda: open_files() <= before, "no file is left open")
