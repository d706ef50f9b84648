"""Nothing of aarch64's machine lies on anything else: not in memory, not on the interrupt lines."""

from __future__ import annotations

from itertools import pairwise

import pytest

from slipway._util.units import GIB, MIB
from slipway.vmm.arch.aarch64 import layout
from slipway.vmm.arch.aarch64.architecture import (
    find_serial_line,
    find_virtio_line,
    place_memory,
)
from slipway.vmm.arch.aarch64.device_tree import (
    build_device_tree,
    find_serial_address,
    find_virtio_address,
)
from slipway.vmm.spec import Plan
from support.device_trees import read_device_tree

KIB = 1 << 10
SERIALS, VIRTIO_DEVICES = 2, 4
DEVICES = {
    "distributor": (layout.DISTRIBUTOR, layout.DISTRIBUTOR_SIZE),
    "redistributors": (layout.REDISTRIBUTORS, layout.MAX_VCPUS * layout.REDISTRIBUTOR_SIZE),
    **{f"serial {n}": (find_serial_address(n), layout.SERIAL_SIZE) for n in range(SERIALS)},
    **{f"virtio {n}": (find_virtio_address(n), layout.VIRTIO_SIZE) for n in range(VIRTIO_DEVICES)},
}
MEMORY = {
    "device tree": (layout.DEVICE_TREE, layout.DEVICE_TREE_SIZE),
    "kernel": (layout.KERNEL_BASE, layout.INITRAMFS_END - layout.KERNEL_BASE),
}


@pytest.mark.parametrize(
    ("places", "start", "end"),
    [(DEVICES, 0, layout.RAM), (MEMORY, layout.RAM, layout.INITRAMFS_END)],
    ids=["devices", "memory"],
)
def test_places_are_apart(places: dict[str, tuple[int, int]], start: int, end: int) -> None:
    inside = sorted(places.values())

    assert inside[0][0] >= start
    for (address, size), (following, _) in pairwise(inside):
        assert address + size <= following
    assert sum(inside[-1]) <= end


@pytest.mark.parametrize("size", [MIB, 255 * MIB, 4 * GIB + 4096, 64 * GIB])
def test_largest_machine_is_told_of_each_place_once(size: int) -> None:
    plan = Plan("", layout.MAX_VCPUS, serials=SERIALS, virtio=VIRTIO_DEVICES)

    root = read_device_tree(build_device_tree(plan, place_memory(size), (0, 0), bytes(64)))

    values = [node.read_pairs("reg") for name, node in root.children.items() if "@" in name]
    places = sorted(
        (address, length)
        for pairs in values
        for address, length in zip(pairs[::2], pairs[1::2], strict=True)
    )
    assert places == sorted([*DEVICES.values(), *place_memory(size)])
    for (address, length), (following, _) in pairwise(places):
        assert address + length <= following


@pytest.mark.parametrize("size", [MIB, 64 * MIB, 64 * GIB])
def test_memory_is_all_there_in_one_piece(size: int) -> None:
    assert place_memory(size) == [(layout.RAM, size)]


def test_kernel_and_device_tree_lie_as_linux_wants() -> None:
    """Documentation/arm64/booting.rst: multiples of 2 MiB and of 8, and one window of 32 GiB."""
    assert layout.KERNEL_BASE % (2 * MIB) == 0
    assert layout.DEVICE_TREE % 8 == 0
    assert layout.DEVICE_TREE_SIZE <= 2 * MIB
    assert layout.INITRAMFS_END - layout.RAM <= 32 * GIB


def test_interrupt_controller_lies_as_kvm_wants() -> None:
    """Documentation/virt/kvm/devices/arm-vgic-v3.rst: in pieces of 64 KiB."""
    for place in (layout.DISTRIBUTOR, layout.REDISTRIBUTORS):
        assert place % (64 * KIB) == 0
    assert (layout.DISTRIBUTOR_SIZE, layout.REDISTRIBUTOR_SIZE) == (64 * KIB, 128 * KIB)


def test_serial_ports_differ_in_the_bits_that_coalesced_writes_are_told_apart_by() -> None:
    assert len({find_serial_address(number) & 0xFFFF for number in range(SERIALS)}) == SERIALS


def test_lines_are_apart_and_the_gics() -> None:
    lines = [find_serial_line(number) for number in range(SERIALS)]
    lines += [find_virtio_line(number) for number in range(VIRTIO_DEVICES)]

    assert len(set(lines)) == len(lines)
    assert max(lines) < layout.LINES
