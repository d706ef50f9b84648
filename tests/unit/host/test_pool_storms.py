"""Runs of several keys in too little memory, with clones that fail: all end, nothing is left."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity, Needs
from slipway._model.options import Options
from slipway._run import guest as _guest
from slipway._run.languages import find_language
from slipway._run.start_info import StartInfo
from slipway._snapshots import pool, pool_entry
from slipway._snapshots.key import SnapshotKey
from slipway._snapshots.launcher import SnapshotLauncher
from slipway._snapshots.pool import Pool
from slipway._snapshots.store import SnapshotStore
from slipway._snapshots.templates import TemplateCache
from slipway._util.shares import Share
from slipway_initramfs.store.image_store import ImageStore
from support.fake_templates import MEMORY, MIB, StoredHypervisor, stored_snapshot
from support.sessions import open_files
from support.stores import put_image
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway._run.guest import Guest

LANGUAGES = ("bash", "python", "c")
RUNS = 120
NEEDS = Needs(2 * MIB, 1)
# A run, a clone that waits and no template; or a run and all templates.
CAPACITY = Capacity(machines=4, memory=NEEDS.memory + MIB, cpus=4, queue=RUNS)


class Cold:
    """Takes the place of what boots."""

    def __init__(self, hypervisor: StoredHypervisor) -> None:
        self.hypervisor = hypervisor

    async def launch(self, assets: Assets, options: Options, start_reason: str = "") -> Guest:
        guest = await self.hypervisor.launcher.launch(assets, options)
        guest.start_info = StartInfo("cold", start_reason)
        return guest


@pytest.fixture
def hypervisor(monkeypatch: pytest.MonkeyPatch) -> StoredHypervisor:
    """A machine of the test's own, quick pauses, and a host that has memory."""
    made = StoredHypervisor()
    monkeypatch.setattr(_guest, "RESTORE_SECONDS", 0.05)
    monkeypatch.setattr(pool, "read_unshared_bytes", lambda _pid, most: most)
    monkeypatch.setattr(pool, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(pool, "SHORT_OF_MEMORY", 0)
    monkeypatch.setattr(pool_entry, "FIRST_BACKOFF", 0.001)
    monkeypatch.setattr(pool_entry, "LONGEST_BACKOFF", 0.01)
    return made


def keep_snapshots(store: ImageStore, hypervisor: StoredHypervisor) -> dict[str, Assets]:
    """What the languages run on; there is a snapshot of each."""
    assets = {}
    for name in LANGUAGES:
        found = hypervisor.launcher.assets_of(find_language(name), Options())
        image = put_image(store, name)
        assets[name] = replace(found, image=image, memory=MEMORY)
        key = SnapshotKey.of(assets[name], 1)
        snapshot = stored_snapshot()
        SnapshotStore(store).save(key, snapshot)
        snapshot.close()
    return assets


def mood_of(choice: random.Random) -> str:
    return choice.choices(("", "dies", "silent"), (60, 2, 1))[0]


@pytest.mark.parametrize("seed", range(4))
async def test_all_runs_end_and_nothing_is_left(
    seed: int, hypervisor: StoredHypervisor, tmp_path: Path, progress: Callable[[str], None]
) -> None:
    choice = random.Random(seed)
    store = ImageStore(tmp_path)
    assets = keep_snapshots(store, hypervisor)
    await asyncio.to_thread(lambda: None)
    before = open_files()
    hypervisor.moods[:] = [mood_of(choice) for _ in range(10 * RUNS)]
    admission = Admission(CAPACITY)
    templates = TemplateCache(store, admission)
    pool = Pool(store, templates, admission, 2)
    launcher = SnapshotLauncher(store, templates, pool)
    launcher._cold = Cold(hypervisor)  # type: ignore[assignment]
    starts: list[str] = []

    async def run(language: str) -> None:
        ticket = admission.enter(Share(key=language), NEEDS)
        try:
            await wait_until(lambda: ticket.is_admitted, "the run is admitted")
            assert admission.load.memory + admission.reserved <= CAPACITY.memory
            guest = await launcher.launch(assets[language], Options())
            starts.append(guest.start_info.start)
            await launcher.release(guest)
        finally:
            admission.leave(ticket)

    runs = []
    for _ in range(RUNS):
        runs.append(asyncio.create_task(run(choice.choice(LANGUAGES))))
        if not choice.randrange(3):
            await asyncio.sleep(choice.random() / 100)
        if not choice.randrange(8):
            runs[choice.randrange(len(runs))].cancel()
    ended = await asyncio.gather(*runs, return_exceptions=True)
    await pool.close()
    await templates.close()

    progress(f"storm {seed}: { ({start: starts.count(start) for start in set(starts)}) }")
    assert [e for e in ended if e is not None and not isinstance(e, asyncio.CancelledError)] == []
    assert not hypervisor.launcher.machines
    load = admission.load
    assert (load.machines, load.waiting, load.memory, load.cpus) == (0, 0, 0, 0)
    assert admission.reserved == 0
    assert not [template for template in hypervisor.templates if template.is_open]
    await wait_until(lambda: len(asyncio.all_tasks()) == 1, "no task is left but the test")
    await wait_until(lambda: open_files() <= before, "no file is left open")
