"""The slot of a run or session, from its admission to its release."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slipway._admission.admission import Admission
from slipway._admission.ticket import Capacity
from slipway._model.network import Network
from slipway._model.options import Options
from slipway._run.image_builds import ImageBuilds
from slipway._run.languages import find_language
from slipway._run.launcher import DamagedImage
from slipway._run.slot import Slot, SlotContext
from slipway._util.errors import Busy, InputError
from slipway.machine.gateway.bounds import MAX_MEMORY
from support.fake_machine import MEMORY, OVERHEAD, FakeLauncher
from support.waiting import wait_until

MACHINE = MEMORY + OVERHEAD
CAPACITY = Capacity(machines=2, memory=4 * MACHINE, cpus=2, queue=1)


def context_of(launcher: FakeLauncher, capacity: Capacity = CAPACITY) -> SlotContext:
    return SlotContext(launcher, launcher, Admission(capacity), ImageBuilds(launcher))


def slot_in(context: SlotContext, **arguments: object) -> Slot:
    return Slot(context, find_language("bash"), Options(), **arguments)  # type: ignore[arg-type]


def machines(context: SlotContext) -> int:
    assert context.admission is not None
    return context.admission.load.machines


async def test_slot_counts_from_its_admission_until_it_is_left() -> None:
    launcher = FakeLauncher()
    context = context_of(launcher)
    slot = slot_in(context)
    await slot.find_if_built()

    slot.enter()
    await slot.wait_admitted()
    guest = await slot.launch()
    held = machines(context), len(launcher.machines)
    await slot.release(guest)
    slot.leave()
    slot.leave()

    assert held == (1, 1)
    assert (machines(context), len(launcher.machines)) == (0, 0)


async def test_machine_with_a_network_needs_memory_for_its_gateway() -> None:
    context = context_of(FakeLauncher(), replace(CAPACITY, memory=MACHINE + MAX_MEMORY))
    slot = Slot(context, find_language("bash"), Options(network=Network()))
    other = slot_in(context)
    for one in (slot, other):
        await one.find_if_built()

    slot.enter()
    other.enter()
    waiting = other.position
    slot.leave()

    assert waiting == 0
    assert other.position is None
    other.leave()


async def test_missing_image_is_built_between_admission_and_launch() -> None:
    launcher = FakeLauncher(unbuilt=["bash"])
    context, lines = context_of(launcher), list[str]()
    slot = slot_in(context)
    slot.progress = lines.append
    launcher.made.set()

    await slot.find_if_built()
    slot.enter()
    waiting = slot.position
    await slot.wait_admitted()

    assert waiting == 0
    assert lines == [f"making {find_language('bash').image}"]
    assert slot.assets.memory == MEMORY
    slot.leave()


async def test_positions_are_reported_from_the_first_on() -> None:
    context, positions = context_of(FakeLauncher()), list[int]()
    slots = [slot_in(context) for _ in range(4)]
    for slot in slots:
        await slot.find_if_built()
    for slot in slots[:2]:
        slot.enter()

    slots[2].enter(positions.append)
    with pytest.raises(Busy):
        slots[3].enter()
    slots[0].leave()
    await slots[2].wait_admitted()

    assert positions == [0]
    for slot in slots:
        slot.leave()
    assert machines(context) == 0


class Damaged(FakeLauncher):
    """Finds its image damaged, ``times`` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.repairs = 0

    def find(self, *arguments: object, repair: bool = False) -> object:  # type: ignore[override]
        self.repairs += repair
        return super().find(*arguments, repair=repair)  # type: ignore[arg-type]

    async def launch(self, *arguments: object) -> object:  # type: ignore[override]
        if self.times:
            self.times -= 1
            raise DamagedImage
        return await super().launch(*arguments)  # type: ignore[arg-type]


async def test_damaged_image_is_repaired_once_without_an_admission() -> None:
    launcher, lines = Damaged(1), list[str]()
    slot = slot_in(SlotContext(launcher, launcher))  # type: ignore[arg-type]
    slot.progress = lines.append
    slot.find()

    await slot.release(await slot.launch())

    assert launcher.repairs == 1
    assert lines == ["the stored image is damaged; building it again"]


@pytest.mark.parametrize("unbuilt", [(), ("bash",)], ids=["built", "missing"])
async def test_hypervisor_is_chosen_once(unbuilt: tuple[str, ...]) -> None:
    launcher = FakeLauncher(unbuilt=unbuilt)
    launcher.made.set()
    slot = slot_in(context_of(launcher))

    await slot.find_if_built()
    slot.enter()
    await slot.wait_admitted()
    await slot.release(await slot.launch())
    slot.leave()

    assert launcher.choices == 1
    assert slot.assets.hypervisor is launcher.hypervisor


async def test_repair_keeps_the_hypervisor() -> None:
    launcher = Damaged(1)
    slot = slot_in(SlotContext(launcher, launcher))  # type: ignore[arg-type]
    slot.find()

    await slot.release(await slot.launch())

    assert (launcher.repairs, launcher.choices) == (1, 1)


async def test_image_that_is_damaged_again_is_an_error() -> None:
    launcher = Damaged(2)
    slot = slot_in(SlotContext(launcher, launcher))  # type: ignore[arg-type]
    slot.find()

    with pytest.raises(DamagedImage, match="damaged again after it was built anew"):
        await slot.launch()

    assert launcher.repairs == 1


async def test_check_of_the_assets_comes_before_the_admission() -> None:
    def refuse(_assets: object) -> None:
        raise InputError("too small")

    context = context_of(FakeLauncher())
    with pytest.raises(InputError, match="too small"):
        await slot_in(context, check=refuse).find_if_built()

    assert machines(context) == 0


async def test_fork_takes_its_memory_twice() -> None:
    launcher = FakeLauncher()
    context = context_of(launcher)
    assert context.admission is not None
    slot = slot_in(context)
    await slot.find_if_built()
    slot.enter()

    fork = slot.for_fork(launcher)
    fork.enter()
    await wait_until(lambda: machines(context) == 2, "the fork is admitted")

    assert context.admission.load.memory == MACHINE + MEMORY + MACHINE
    fork.leave()
    slot.leave()


@pytest.mark.parametrize(
    "capacity",
    [
        Capacity(machines=1, memory=CAPACITY.memory, cpus=2, queue=1),
        Capacity(machines=2, memory=2 * MACHINE, cpus=2, queue=1),
        Capacity(machines=2, memory=CAPACITY.memory, cpus=1, queue=1),
    ],
    ids=["machines", "memory", "cpus"],
)
async def test_fork_that_never_has_room_is_refused(capacity: Capacity) -> None:
    launcher = FakeLauncher()
    slot = slot_in(context_of(launcher, capacity))
    await slot.find_if_built()

    with pytest.raises(InputError, match="never room"):
        slot.for_fork(launcher)
