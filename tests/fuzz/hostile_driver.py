"""Driver of a guest that does anything to a virtio device: the acts that all devices know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from slipway.vmm.devices.virtio_mmio import REGION_SIZE, Register, Status
from slipway.vmm.devices.virtqueue import DescriptorFlag
from support.virtio_driver import RAM_START

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slipway.vmm.devices.virtio_mmio import VirtioMmio
    from support.virtio_driver import FakeMemory, Vring

    Act = tuple[str, tuple[int, ...]]

RAM_SIZE = 1 << 16
# More than the driver of the hostile guest has put there; what is between its rings is random, too.
RINGS_SIZE = 0x800

words = st.integers(0, 0xFFFF_FFFF) | st.sampled_from(
    [0, 1, 2, 3, 4, 8, 16, 128, 256, 0xFF, 0x8000, 0xFFFF, 0xFFFF_FFFF]
)
places = st.integers(0, 1024).map(lambda offset: RAM_START & 0xFFFF_FFFF | offset << 6)
registers = st.sampled_from(list(Register)).map(int)
offsets = registers | st.integers(0, REGION_SIZE + 8)
values = words | places | st.sampled_from([int(Status(bits)) for bits in range(16)])
accesses = st.tuples(offsets, st.sampled_from([4, 4, 4, 4, 1, 2, 8]), values)
descriptors = st.tuples(
    st.just(RAM_START) | st.integers(RAM_START, RAM_START + RAM_SIZE) | st.integers(0, 2**64 - 1),
    st.integers(0, 300) | st.integers(0, 2**32 - 1),
    st.sampled_from([int(flag) for flag in DescriptorFlag] + [0, 0, 2, 2, 3, 5, 6, 7])
    | st.integers(0, 2**16 - 1),
    st.integers(0, 5) | st.integers(0, 2**16 - 1),
)
COMMON = ("read", "write", "notify", "poke", "describe", "offer", "offer", "index")


def build_acts(
    queues: st.SearchStrategy[int],
    kinds: Iterable[str],
    arguments: dict[str, st.SearchStrategy[int]],
) -> st.SearchStrategy[Act]:
    """Return the acts of :data:`COMMON`, and ``kinds`` with one of ``arguments`` or none."""

    @st.composite
    def acts(draw: st.DrawFn) -> Act:
        kind = draw(st.sampled_from([*COMMON, *kinds]))
        match kind:
            case "read" | "write":
                return kind, draw(accesses)
            case "notify":
                return kind, (draw(queues | words),)
            case "poke":
                return kind, (draw(st.integers(0, RINGS_SIZE - 4)), draw(words))
            case "describe":
                return kind, (draw(queues), draw(st.integers(0, 3)), *draw(descriptors))
            case "offer":
                return kind, (draw(queues), draw(st.integers(0, 3) | st.integers(0, 0xFFFF)))
            case "index":
                return kind, (draw(queues), draw(st.integers(0, 0xFFFF)))
        return kind, (draw(arguments[kind]),) if kind in arguments else ()

    return acts()


def act_on_device(act: Act, device: VirtioMmio, memory: FakeMemory, rings: Sequence[Vring]) -> None:
    """Carry out an act of :data:`COMMON`."""
    match act:
        case "read", (offset, size, _):
            assert 0 <= device.read(offset, size) < 1 << 8 * size
        case "write", (offset, size, value):
            device.write(offset, size, value)
        case "notify", (queue,):
            device.write(Register.QUEUE_NOTIFY, 4, queue)
        case "poke", (offset, value):
            memory.write(RAM_START + offset, "<I", value)
        case "describe", (queue, index, *descriptor):
            rings[queue].describe(index, *descriptor)
        case "offer", (queue, head):
            rings[queue].offer(head)
            device.write(Register.QUEUE_NOTIFY, 4, queue)
        case "index", (queue, index):
            memory.write(rings[queue].available + 2, "<H", index)
        case unknown:
            raise AssertionError(f"unknown act {unknown}")
