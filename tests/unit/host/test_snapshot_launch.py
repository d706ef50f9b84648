"""Where a run's machine comes from: the pool, a snapshot, or a boot; and what it says of that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from slipway._model.options import Options
from slipway._run.languages import find_language
from slipway._run.start_info import StartInfo
from slipway._snapshots.key import SnapshotKey, check_clonable
from slipway._snapshots.launcher import SnapshotLauncher
from slipway._snapshots.store import SnapshotStore
from slipway._util.errors import HostError
from slipway_initramfs.store.image_store import ImageStore
from support.fake_machine import FakeLauncher
from support.fake_templates import MEMORY, FakeTemplateCache, StoredHypervisor, stored_snapshot
from support.stores import put_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from slipway._run.assets import Assets
    from slipway._run.guest import Guest

KEY = SnapshotKey("bash", "amd64", "fake", MEMORY, 1, "ab" * 32)


class Cold:
    """Takes the place of what boots."""

    def __init__(self, launcher: FakeLauncher) -> None:
        self.launcher = launcher
        self.guests: list[Guest] = []

    async def launch(self, assets: Assets, options: Options, start_reason: str = "") -> Guest:
        guest = await self.launcher.launch(assets, options)
        guest.start_info = StartInfo("cold", start_reason, "a test's")
        self.guests.append(guest)
        return guest


class TemplateCache(FakeTemplateCache):
    """Those of one process, with a key for every run."""

    def key_of(self, assets: Assets, options: Options) -> SnapshotKey:
        check_clonable(assets, options)
        return KEY


class Pool:
    """Has one clone, or none."""

    def __init__(self) -> None:
        self.guest: Guest | None = None

    async def take(self, *_: object) -> Guest | None:
        return self.guest


class LaunchBench:
    def __init__(self, root: Path) -> None:
        self.machines = FakeLauncher()
        self.store = ImageStore(root)
        self.templates = TemplateCache(self.machines)
        self.pool = Pool()
        self.assets = self.machines.assets_of(find_language("bash"), Options())
        self.guests: list[Guest] = []

    def launcher(self, *, templates: bool = True, pool: bool = True) -> SnapshotLauncher:
        launcher = SnapshotLauncher(
            self.store,
            self.templates if templates else None,  # type: ignore[arg-type]
            self.pool if pool else None,  # type: ignore[arg-type]
        )
        launcher._cold = Cold(self.machines)  # type: ignore[assignment]
        return launcher

    async def launch(self, launcher: SnapshotLauncher) -> StartInfo:
        guest = await launcher.launch(self.assets, Options())
        await launcher.release(guest)
        return guest.start_info


@pytest_asyncio.fixture
async def ground(tmp_path: Path) -> AsyncIterator[LaunchBench]:
    made = LaunchBench(tmp_path)
    yield made
    assert not made.machines.machines


async def test_clone_of_the_pool_is_taken_first(ground: LaunchBench) -> None:
    ground.pool.guest = await ground.machines.launch(ground.assets, Options())

    guest = await ground.launcher().launch(ground.assets, Options())

    assert guest is ground.pool.guest
    assert ground.templates.made == 0
    await guest.stop()


async def test_clone_is_made_where_none_waits(ground: LaunchBench) -> None:
    with_pool = await ground.launch(ground.launcher())
    without = await ground.launch(ground.launcher(pool=False))

    assert with_pool == StartInfo("snapshot", "no idle clone in the pool", "a test's")
    assert without == StartInfo("snapshot", "", "a test's")


@pytest.mark.parametrize("reason", ["no matching snapshot", "the snapshot cannot be used: damaged"])
async def test_run_boots_where_nothing_can_be_cloned_and_says_why(
    ground: LaunchBench, reason: str
) -> None:
    ground.templates.reasons = [reason]

    origin = await ground.launch(ground.launcher())

    assert origin == StartInfo("cold", reason, "a test's")


async def test_kernel_of_the_callers_own_is_booted(ground: LaunchBench) -> None:
    ground.assets = replace(ground.assets, other_kernel=Path("/vmlinux"))

    shared = await ground.launch(ground.launcher())
    alone = await ground.launch(ground.launcher(templates=False, pool=False))

    assert shared == alone == StartInfo("cold", "the run boots its own kernel", "a test's")
    assert ground.templates.made == 0


async def test_boot_that_is_to_be_seen_is_a_boot(ground: LaunchBench) -> None:
    launcher = ground.launcher(templates=False, pool=False)

    guest = await launcher.launch(ground.assets, Options(boot_log=True))

    assert guest.start_info == StartInfo("cold", "the run shows the boot log", "a test's")
    await launcher.release(guest)


async def test_store_without_snapshots_is_not_asked_for_one(ground: LaunchBench) -> None:
    origin = await ground.launch(ground.launcher(templates=False, pool=False))

    assert origin == StartInfo("cold", "no matching snapshot", "a test's")


async def test_one_users_template_is_closed_with_its_run(
    ground: LaunchBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypervisor = StoredHypervisor()
    image = put_image(ground.store)
    ground.assets = replace(ground.assets, image=image, memory=MEMORY, hypervisor=hypervisor)
    snapshot = stored_snapshot()
    key = SnapshotKey.of(ground.assets, 1)
    SnapshotStore(ground.store).save(key, snapshot)
    snapshot.close()
    launcher = ground.launcher(templates=False, pool=False)

    guest = await launcher.launch(ground.assets, Options())
    (template,) = hypervisor.templates
    open_meanwhile = template.is_open
    await launcher.release(guest)

    assert guest.start_info == StartInfo("snapshot", "", "a test's")
    assert open_meanwhile
    assert not template.is_open
    assert not hypervisor.launcher.machines


async def test_store_that_cannot_be_read_is_told(
    ground: LaunchBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ground.store.root / "refs").mkdir(parents=True)
    (ground.store.root / "refs" / "snapshot").write_text("a file")

    with pytest.raises(HostError, match="cannot trust the image store"):
        await ground.launch(ground.launcher(templates=False, pool=False))
