"""Machines with several processors, and ones that are stopped in the middle."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from slipway._model.options import Options
from slipway._run.find_assets import find_assets
from slipway._run.guest import Guest
from slipway._run.languages import find_language
from slipway._util.errors import UnknownOutcome
from slipway.machine.kvm import KvmMachine
from slipway_initramfs.store.image_store import ImageStore
from support.hypervisors import with_hypervisor
from support.microvm import Microvm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slipway._run.assets import Assets

COUNT = "grep -c ^processor /proc/cpuinfo"
# Every line is a step of the guest's own; nothing else makes it print.
TICKS = "for ((n = 0; n < 120; n++)); do echo tick; sleep 0.02; done"


@pytest.fixture
def kvm(machine: str) -> None:
    if machine != "kvm":
        pytest.skip("only our own VMM can be paused")


@pytest.fixture
def assets(progress: Callable[[str], None]) -> Assets:
    return find_assets(find_language("bash"), Options(), ImageStore(), progress)


@pytest.fixture
def running(machine: str, progress: Callable[[str], None]) -> Iterator[Microvm]:
    vm = Microvm("bash", machine)
    vm.boot(progress)
    yield vm
    vm.close()


@pytest.mark.parametrize("cpus", [1, 4])
def test_program_sees_the_processors_it_was_given(
    machine: str, cpus: int, progress: Callable[[str], None]
) -> None:
    vm = Microvm("bash", machine, cpus=cpus)
    try:
        vm.boot(progress)

        outcome = vm.run(COUNT)
    finally:
        vm.close()

    assert outcome.stdout == b"%d\n" % cpus


@pytest.mark.usefixtures("kvm")
async def test_machine_that_is_paused_while_it_boots_goes_on_after(assets: Assets) -> None:
    guest = await Guest.start(with_hypervisor(assets, "kvm"), Options())
    try:
        assert isinstance(guest.machine, KvmMachine)
        await asyncio.sleep(0.2)

        await guest.machine.pause()
        before = await guest.machine.count_exits()
        await asyncio.sleep(1)
        after = await guest.machine.count_exits()
        await guest.machine.resume()
        ready = await guest.wait_ready()
    finally:
        await guest.stop()

    assert before == after
    assert ready.kernel


@pytest.mark.usefixtures("kvm")
def test_program_that_is_paused_stands_still_and_goes_on(running: Microvm) -> None:
    machine = running.guest.machine
    assert isinstance(machine, KvmMachine)
    job = running.begin(TICKS)
    job.until(b"tick\n" * 3)

    running.call(machine.pause())
    time.sleep(0.5)  # what was under way when it stopped
    before = job.output()
    time.sleep(1)
    after = job.output()
    running.call(machine.resume())
    outcome = job.outcome()

    assert before == after
    assert len(before) < len(b"tick\n" * 120)
    assert outcome.stdout == b"tick\n" * 120


async def test_machine_that_is_stopped_while_it_boots_leaves_no_process(
    machine: str, assets: Assets
) -> None:
    guest = await Guest.start(with_hypervisor(assets, machine), Options())
    await asyncio.sleep(0.2)

    pid = guest.machine.pid
    await guest.stop()

    assert not psutil.pid_exists(pid)


def test_machine_that_is_stopped_under_a_program_leaves_no_process(running: Microvm) -> None:
    job = running.begin(TICKS)
    job.until(b"tick\n")

    pid = running.guest.machine.pid
    running.halt()

    assert not psutil.pid_exists(pid)
    with pytest.raises(UnknownOutcome, match="ended"):
        job.outcome()


@pytest.mark.usefixtures("kvm")
async def test_machine_that_is_stopped_while_it_is_paused_leaves_no_process(
    assets: Assets,
) -> None:
    guest = await Guest.start(with_hypervisor(assets, "kvm"), Options())
    assert isinstance(guest.machine, KvmMachine)
    await guest.machine.pause()

    pid = guest.machine.pid
    await guest.stop()

    assert not psutil.pid_exists(pid)
