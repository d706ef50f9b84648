"""The device tree: what the guest's kernel on aarch64 is told, read by a reader of the tests'."""

from __future__ import annotations

import pytest

from slipway import InputError
from slipway.vmm.arch.aarch64 import layout
from slipway.vmm.arch.aarch64.architecture import (
    HAS_WIDE_FIFOS,
    check_device_tree,
    find_serial_line,
    find_virtio_line,
    place_memory,
)
from slipway.vmm.arch.aarch64.device_tree import (
    build_device_tree,
    find_serial_address,
    find_virtio_address,
)
from slipway.vmm.arch.aarch64.fdt import Node, encode_cells, encode_texts, flatten
from slipway.vmm.devices.uart import FCR, FCR_ENABLE, Uart
from slipway.vmm.spec import Plan
from support.device_trees import ReadNode, read_device_tree

MIB, GIB = 1 << 20, 1 << 30
SEED = bytes(range(64))
EDGE, SHARED = 1, 0


class NobodyListens:
    """Backend of a port that is never used."""

    def send(self, data: bytes | memoryview) -> int:
        return 0

    def can_receive(self) -> None:
        """Nothing comes."""


def read_machine(
    command_line: str = "console=ttyS0",
    cpus: int = 1,
    serials: int = 2,
    virtio: int = 2,
    ramdisk: tuple[int, int] = (layout.RAM + 32 * MIB, 4 * MIB),
) -> ReadNode:
    plan = Plan(command_line, cpus, serials=serials, virtio=virtio)
    blob = build_device_tree(plan, place_memory(256 * MIB), ramdisk, SEED)
    return read_device_tree(blob)


def test_tree_is_read_as_it_was_written() -> None:
    tree = Node(
        "",
        {"empty": b"", "odd": b"abcde", "same": encode_cells(1)},
        Node("child", {"same": encode_texts("one", "two")}, Node("leaf@1", {})),
        Node("other", {}),
    )

    root = read_device_tree(flatten(tree))

    assert root.properties == {"empty": b"", "odd": b"abcde", "same": b"\0\0\0\1"}
    assert list(root.children) == ["child", "other"]
    assert root.children["child"].read_texts("same") == ["one", "two"]
    assert list(root.children["child"].children) == ["leaf@1"]


def test_name_of_a_property_is_stored_once() -> None:
    one = flatten(Node("", {}, Node("a", {"a-long-name": b""})))
    two = flatten(Node("", {}, Node("a", {"a-long-name": b""}), Node("b", {"a-long-name": b""})))

    assert one.count(b"a-long-name") == two.count(b"a-long-name") == 1


def test_kernel_gets_command_line_initramfs_and_seed_unchanged() -> None:
    line = "console=ttyS0 x=\udcff"

    chosen = read_machine(line).children["chosen"]

    assert chosen.read_texts("bootargs") == [line]
    start, end = chosen.read_pairs("linux,initrd-start") + chosen.read_pairs("linux,initrd-end")
    assert (start, end - start) == (layout.RAM + 32 * MIB, 4 * MIB)
    assert chosen.properties["rng-seed"] == SEED


def test_machine_without_initramfs_is_told_of_none() -> None:
    chosen = read_machine(ramdisk=(layout.RAM, 0)).children["chosen"]

    assert "linux,initrd-start" not in chosen.properties


def test_memory_is_all_there() -> None:
    root = read_machine()

    assert root.children[f"memory@{layout.RAM:x}"].read_pairs("reg") == [layout.RAM, 256 * MIB]


@pytest.mark.parametrize("cpus", [1, 2, layout.MAX_VCPUS])
def test_each_vcpu_has_a_node_and_a_redistributor(cpus: int) -> None:
    root = read_machine(cpus=cpus)

    nodes = root.children["cpus"].children
    assert [node.read_cells("reg") for node in nodes.values()] == [[n] for n in range(cpus)]
    assert {node.read_texts("enable-method")[0] for node in nodes.values()} == {"psci"}
    gic = root.children[f"interrupt-controller@{layout.DISTRIBUTOR:x}"]
    _, _, first, size = gic.read_pairs("reg")
    assert (first, size) == (layout.REDISTRIBUTORS, cpus * layout.REDISTRIBUTOR_SIZE)


def test_devices_are_where_the_machine_has_them_and_interrupt_by_edges() -> None:
    root = read_machine(serials=2, virtio=3)

    for number in range(2):
        address = find_serial_address(number)
        node = root.children[f"serial@{address:x}"]
        assert node.read_pairs("reg")[0] == address
        assert node.read_cells("interrupts") == [SHARED, find_serial_line(number), EDGE]
    for number in range(3):
        address = find_virtio_address(number)
        node = root.children[f"virtio_mmio@{address:x}"]
        assert node.read_pairs("reg") == [address, layout.VIRTIO_SIZE]
        assert node.read_cells("interrupts") == [SHARED, find_virtio_line(number), EDGE]


def test_serial_ports_are_told_the_size_of_their_fifos() -> None:
    node = read_machine(serials=1).children[f"serial@{layout.SERIAL:x}"]
    uart = Uart(lambda: None, NobodyListens(), has_wide_fifo=HAS_WIDE_FIFOS)
    uart.write(FCR, 1, FCR_ENABLE)

    received = uart.receive(bytes(1000))
    uart.write_burst(bytes(1000))

    assert node.read_cells("fifo-size") == [received] == [64]
    assert len(uart.save_state().unsent) == 64 - node.read_cells("tx-threshold")[0]


def test_first_serial_port_is_the_first_for_the_kernel() -> None:
    aliases = read_machine(serials=2).children["aliases"]

    assert aliases.read_texts("serial0") == [f"/serial@{layout.SERIAL:x}"]
    assert set(aliases.properties) == {"serial0", "serial1"}


@pytest.mark.parametrize(("serials", "virtio"), [(1, 0), (1, 1), (2, 0), (1, 2)])
def test_guest_is_told_of_no_other_device(serials: int, virtio: int) -> None:
    root = read_machine(serials=serials, virtio=virtio)

    names = [name.partition("@")[0] for name in root.children]
    assert names.count("serial") == serials
    assert names.count("virtio_mmio") == virtio


def test_interrupt_parent_is_the_gic() -> None:
    root = read_machine()

    gic = root.children[f"interrupt-controller@{layout.DISTRIBUTOR:x}"]
    assert root.read_cells("interrupt-parent") == gic.read_cells("phandle")


def test_tree_that_would_not_fit_is_refused() -> None:
    plan = Plan("", 50_000, serials=1, virtio=1)
    tree = build_device_tree(plan, place_memory(GIB), (layout.RAM, 0), SEED)

    with pytest.raises(InputError, match=r"device tree has .* at most 2097152 fit"):
        check_device_tree(tree)


def test_tree_of_the_largest_machine_fits() -> None:
    plan = Plan("x" * (layout.COMMAND_LINE_SIZE - 1), layout.MAX_VCPUS, serials=2, virtio=4)

    check_device_tree(build_device_tree(plan, place_memory(GIB), (layout.RAM, 0), SEED))
