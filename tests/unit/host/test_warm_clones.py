"""WarmClones: which failures stop them, for how long, and what a run says of that."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity
from slipway._model.options import Options
from slipway._run.languages import find_language
from slipway._snapshots.key import SnapshotKey
from slipway._snapshots.store import SnapshotStore
from slipway._snapshots.templates import TemplateCache
from slipway._snapshots.warm_clones import FIRST_PAUSE, LONGEST_PAUSE, MAX_FAILURES
from slipway_initramfs.store.image_store import ImageStore
from support.clock import JumpingClock
from support.fake_templates import MEMORY, MIB, StoredHypervisor, stored_snapshot
from support.sessions import open_files
from support.stores import put_image
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway._run.start_info import StartInfo
    from slipway._snapshots.stored_snapshot import StoredSnapshot

CAPACITY = Capacity(machines=10, memory=100 * MIB, cpus=10, queue=10)


class WarmBench:
    """Templates of one stored snapshot, on a machine that has warm clones."""

    def __init__(self, root: Path) -> None:
        images = ImageStore(root)
        self.hypervisor = StoredHypervisor()
        self.hypervisor.has_warm_clones = True
        self.admission = Admission(CAPACITY)
        # A fake agent has commands of its own.
        language = replace(find_language("bash"), sample="print hello\n")
        assets = self.hypervisor.launcher.assets_of(language, Options())
        self.assets: Assets = replace(assets, image=put_image(images), memory=MEMORY)
        self.key = SnapshotKey.of(self.assets, 1)
        with stored_snapshot() as snapshot:
            self.stored: StoredSnapshot = SnapshotStore(images).save(self.key, snapshot)
        self.templates = TemplateCache(images, self.admission)
        # Fates of warm clones and templates; see support.fake_templates.
        self.moods = self.hypervisor.warm_moods

    async def prepare(self) -> None:
        await self.templates.prepare_warm_clones(self.key, self.assets)

    async def start(self) -> StartInfo:
        """Make a clone and end it; return how it started."""
        guest = await self.templates.clone(self.key, self.assets, Options())
        await guest.stop()
        return guest.start_info

    async def start_often(self, count: int) -> list[str]:
        return [(await self.start()).start for _ in range(count)]


@pytest_asyncio.fixture
async def ground(tmp_path: Path) -> AsyncIterator[WarmBench]:
    made = WarmBench(tmp_path)
    await asyncio.to_thread(lambda: None)  # the loop's threads have files of their own
    before = open_files()
    yield made
    await made.templates.close()
    assert not made.hypervisor.launcher.machines
    assert made.admission.reserved == 0
    await wait_until(lambda: open_files() <= before, "no file is left open")


@pytest.mark.parametrize("mood", ["dies", "late", "silent"])
async def test_one_failed_warm_clone_concerns_one_start_alone(ground: WarmBench, mood: str) -> None:
    JumpingClock()
    await ground.prepare()
    ground.moods[:] = [mood]

    failed = await ground.start()
    after = await ground.start_often(3)

    assert failed.start == "snapshot"
    assert failed.start_reason.startswith("no warm clone: ")
    assert after == ["warm"] * 3
    assert len(ground.hypervisor.warm_templates) == 1


async def test_failures_in_a_row_stop_warm_clones_until_a_later_try(ground: WarmBench) -> None:
    clock = JumpingClock()
    await ground.prepare()
    ground.moods[:] = ["late"] * MAX_FAILURES

    failed = await ground.start_often(MAX_FAILURES)
    stopped = await ground.start()
    closed = not ground.hypervisor.warm_templates[0].is_open
    clock.advance(FIRST_PAUSE)
    await ground.prepare()
    later = await ground.start()

    assert failed == ["snapshot"] * MAX_FAILURES
    assert (stopped.start, stopped.start_reason) == (
        "snapshot",
        "no warm clone: no machine was forked in time",
    )
    assert closed
    assert later.start == "warm"
    assert later.start_reason == ""


async def test_success_between_failures_forgives_them(ground: WarmBench) -> None:
    await ground.prepare()
    for _ in range(MAX_FAILURES):
        ground.moods[:] = ["late"] * (MAX_FAILURES - 1) + [""]
        await ground.start_often(MAX_FAILURES)

    assert await ground.start_often(1) == ["warm"]
    assert len(ground.hypervisor.warm_templates) == 1


async def test_warm_clones_that_fail_together_count_once(ground: WarmBench) -> None:
    await ground.prepare()
    ground.moods[:] = ["dies"] * 2 * MAX_FAILURES

    await asyncio.gather(*(ground.start() for _ in range(2 * MAX_FAILURES)))

    assert await ground.start_often(1) == ["warm"]


@pytest.mark.parametrize("where", ["freeze", "clone"])
async def test_refusal_by_the_host_is_final(ground: WarmBench, where: str) -> None:
    clock = JumpingClock()
    if where == "freeze":
        ground.moods[:] = ["", "refused"]  # the first is that of its greeting
    await ground.prepare()
    if where == "clone":
        ground.moods[:] = ["refused"]
    first = await ground.start()
    clock.advance(2 * LONGEST_PAUSE)
    await ground.prepare()
    later = await ground.start()

    assert first.start_reason == later.start_reason == "no warm clone: ptrace: no"
    assert len(ground.hypervisor.warm_templates) == 1
    assert not ground.hypervisor.warm_templates[0].is_open


async def test_end_of_the_warm_template_stops_warm_clones_at_once(ground: WarmBench) -> None:
    clock = JumpingClock()
    await ground.prepare()
    ground.moods[:] = ["ended"]

    starts = [await ground.start() for _ in range(2)]
    clock.advance(FIRST_PAUSE)
    await ground.prepare()

    assert [each.start_reason for each in starts] == ["no warm clone: it has ended"] * 2
    assert await ground.start_often(1) == ["warm"]
    assert len(ground.hypervisor.warm_templates) == 2


async def test_clones_without_a_pool_try_again_after_the_pause(ground: WarmBench) -> None:
    clock = JumpingClock()
    await ground.prepare()
    ground.moods[:] = ["ended"]
    await ground.start_often(2)
    before = len(ground.hypervisor.warm_templates)

    clock.advance(FIRST_PAUSE)
    await ground.start()
    await wait_until(
        lambda: len(ground.hypervisor.warm_templates) == 2, "a second warm template is made"
    )

    assert before == 1


async def test_pause_grows_while_no_warm_template_can_be_made(ground: WarmBench) -> None:
    clock = JumpingClock()
    pauses = []
    for _ in range(8):
        count = len(ground.hypervisor.warm_templates)
        ground.moods[:] = ["dies"]
        waited = 0.0
        while len(ground.hypervisor.warm_templates) == count:
            await ground.prepare()
            if len(ground.hypervisor.warm_templates) == count:
                clock.advance(FIRST_PAUSE)
                waited += FIRST_PAUSE
        pauses.append(waited)

    assert pauses == [0.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, LONGEST_PAUSE]
    assert ground.admission.reserved == ground.stored.disk_bytes
