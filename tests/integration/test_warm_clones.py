"""Warm clones: forks of a QEMU that has run programs, for both architectures, and their ends."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway import AsyncRuntime
from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity
from slipway._model.network import Network
from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.job_request import JobRequest
from slipway._run.languages import find_language
from slipway._snapshots.create import create_snapshot
from slipway._snapshots.launcher import SnapshotLauncher
from slipway._snapshots.templates import TemplateCache
from slipway._util.errors import HostError, UnknownOutcome
from slipway._util.units import MIB
from slipway_initramfs.store.image_store import ImageStore
from support.listening import run_with
from support.programs import PATIENCE, patient
from support.waiting import wait_until
from support.writable_stores import writable_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from slipway._run.assets import Assets
    from slipway._run.guest import Guest
    from slipway._snapshots.key import SnapshotKey
    from slipway_protocol.messages import Phase, Stream

pytestmark = [pytest.mark.image, pytest.mark.vm, pytest.mark.timeout(600)]

# A connection that no rule allows, and that the gateway answers and counts.
DENIED = "(exec 3<>/dev/tcp/192.0.2.1/80) 2>/dev/null\ntrue\n"
FORKS = int(os.environ.get("SLIPWAY_TEST_FORKS", "4"))


class WarmRig:
    """Templates with warm clones of bash."""

    def __init__(
        self, store: ImageStore, templates: TemplateCache, key: SnapshotKey, assets: Assets
    ) -> None:
        self.store = store
        self.templates = templates
        self.key = key
        self.assets = assets
        self.options = Options(machine="qemu", arch=assets.hypervisor.architecture)

    async def clone(self) -> Guest:
        """Return a new clone."""
        return await self.templates.clone(self.key, self.assets, self.options)

    def find_zygote(self) -> psutil.Process:
        """Return the process that makes the forks."""
        (zygote,) = psutil.Process().children()
        return zygote


async def run(guest: Guest, source: str) -> str:
    """Return what the program ``source`` prints in ``guest``."""
    said = bytearray()

    async def sink(_phase: Phase, _stream: Stream, data: bytes) -> None:
        said.extend(data)

    options = Options(**patient((), (), {}))
    report = await run_with(
        guest, JobRequest(find_language("bash"), source.encode(), options), sink
    )
    assert report.succeeded, said
    return said.decode()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert psutil.Process().children(recursive=True) == []


@asynccontextmanager
async def open_rig(
    options: Options, root: Path, progress: Callable[[str], None]
) -> AsyncIterator[WarmRig]:
    """Return templates whose clones are warm; create the snapshot if it is missing."""
    store = ImageStore(writable_store("bash", root))
    language = find_language("bash", store)
    assets = await asyncio.to_thread(find_assets, language, options, store, progress)
    templates = TemplateCache(store, Admission(Capacity(16, 16384 * MIB, 16, 0)))
    key = templates.key_of(assets, options)
    if not templates.has(key):
        await create_snapshot(assets, options, store, progress)
    rig = WarmRig(store, templates, key, assets)
    try:
        await templates.prepare_warm_clones(key, assets)
        yield rig
    finally:
        await templates.close()


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
async def test_warm_clones_run_programs_each_by_itself(
    arch: str, tmp_path: Path, progress: Callable[[str], None]
) -> None:
    options = Options(machine="qemu", arch=arch)
    async with open_rig(options, tmp_path / "store", progress) as rig:
        guests = [await rig.clone() for _ in range(2)]
        try:
            starts = [guest.start_info.start for guest in guests]
            await run(guests[0], "echo one >/tmp/mine")
            texts = [await run(guest, "uname -m; hostname; id -u") for guest in guests]
        finally:
            await asyncio.gather(*(guest.stop() for guest in guests))

    assert starts == ["warm", "warm"]
    names = {text.split()[1] for text in texts}
    assert len(names) == 2
    assert {text.split()[0] for text in texts} == {"x86_64" if arch == "amd64" else "aarch64"}


async def test_one_warm_template_makes_many_clones_and_leaks_nothing(
    tmp_path: Path, progress: Callable[[str], None]
) -> None:
    async with open_rig(Options(machine="qemu"), tmp_path / "store", progress) as rig:
        zygote = rig.find_zygote()
        before = zygote.num_fds()
        for _ in range(FORKS):
            guest = await rig.clone()
            assert guest.start_info.start == "warm"
            assert await run(guest, "echo hello") == "hello\n"
            await guest.stop()

        assert zygote.num_fds() == before
        assert len(zygote.children()) == 1


async def test_session_starts_as_a_warm_clone_and_its_fork_has_its_state(
    tmp_path: Path, progress: Callable[[str], None]
) -> None:
    async with open_rig(Options(machine="qemu"), tmp_path / "store", progress) as rig:
        launcher = SnapshotLauncher(rig.store, rig.templates)
        runtime = AsyncRuntime(store=rig.store.root, launcher=launcher, machine="qemu", cpus=4)
        async with runtime, runtime.session("bash") as session:
            first = await session.run("echo before >note; hostname", **PATIENCE)  # type: ignore[arg-type]
            async with await session.fork() as fork, await fork.fork() as second:
                await session.run("echo original >note", **PATIENCE)  # type: ignore[arg-type]
                await fork.run("echo fork >note", **PATIENCE)  # type: ignore[arg-type]
                results = [
                    await each.run("cat note; hostname", **PATIENCE)  # type: ignore[arg-type]
                    for each in (session, fork, second)
                ]

    assert (first.provenance.start, first.provenance.start_reason) == ("warm", "")
    assert [result.provenance.start for result in results] == ["session"] * 3
    notes = [result.stdout.split()[0] for result in results]
    assert notes == ["original", "fork", "before"]
    assert len({first.stdout.strip(), *(result.stdout.split()[1] for result in results)}) == 3


async def test_warm_clone_outlives_its_template(
    tmp_path: Path, progress: Callable[[str], None]
) -> None:
    async with open_rig(Options(machine="qemu"), tmp_path / "store", progress) as rig:
        guest = await rig.clone()
        rig.templates.close_template(rig.key)

        said = await run(guest, "echo still here")
        await guest.stop()

    assert said == "still here\n"


@pytest.mark.parametrize("victim", ["zygote", "original"])
async def test_clones_are_made_as_before_when_warm_ones_can_be_made_no_more(
    victim: str, tmp_path: Path, progress: Callable[[str], None]
) -> None:
    async with open_rig(Options(machine="qemu"), tmp_path / "store", progress) as rig:
        zygote = rig.find_zygote()
        (original,) = zygote.children()
        (zygote if victim == "zygote" else original).kill()
        await wait_until(lambda: not original.is_running(), "the stopped QEMU has ended")

        guest = await rig.clone()
        said = await run(guest, "echo hello")
        await guest.stop()

    assert said == "hello\n"
    assert guest.start_info.start == "snapshot"
    assert guest.start_info.start_reason.startswith("no warm clone: ")


async def test_lack_of_descriptors_concerns_one_start_and_not_the_next(
    tmp_path: Path, progress: Callable[[str], None]
) -> None:
    async with open_rig(Options(machine="qemu"), tmp_path / "store", progress) as rig:
        zygote = rig.find_zygote()
        limits = resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
        failed = await rig.clone()
        resource.prlimit(zygote.pid, resource.RLIMIT_NOFILE, limits)

        guest = await rig.clone()
        said = await run(guest, "echo hello")
        await asyncio.gather(failed.stop(), guest.stop())

    assert (failed.start_info.start, failed.start_info.start_reason) == (
        "snapshot",
        "no warm clone: a clone cannot be started: Too many open files",
    )
    assert (guest.start_info.start, said) == ("warm", "hello\n")


async def test_clone_dies_with_its_zygote_and_is_lost_alone(
    tmp_path: Path, progress: Callable[[str], None]
) -> None:
    async with open_rig(Options(machine="qemu"), tmp_path / "store", progress) as rig:
        guest = await rig.clone()
        rig.find_zygote().kill()

        status = await asyncio.wait_for(guest.machine.wait(), 60)
        with pytest.raises((HostError, UnknownOutcome)):
            await run(guest, "echo hello")
        await guest.stop()

    assert status == -signal.SIGKILL


async def test_warm_clone_of_a_machine_with_a_network_has_a_link_of_its_own(
    tmp_path: Path, progress: Callable[[str], None]
) -> None:
    options = Options(machine="qemu", network=Network())
    async with open_rig(options, tmp_path / "store", progress) as rig:
        guests = []
        try:
            for _ in range(2):
                guests.append(await rig.templates.clone(rig.key, rig.assets, options))
                await guests[-1].start_gateway(Network())
            starts = [guest.start_info.start for guest in guests]
            await run(guests[0], DENIED + DENIED)
            await run(guests[1], DENIED)
            uses = [await guest.network.take_use() for guest in guests if guest.network]
        finally:
            await asyncio.gather(*(guest.stop() for guest in guests))

    assert starts == ["warm", "warm"]
    assert [use.denials for use in uses] == [2, 1]
