"""Device tree of this machine: all that its kernel knows of it.

Bindings: Documentation/devicetree/bindings of Linux (arm/cpus.yaml, arm/psci.yaml,
timer/arm,arch_timer.yaml, interrupt-controller/arm,gic-v3.yaml, serial/8250.yaml, virtio/mmio.yaml)
and its schema of ``/chosen``.
"""

from __future__ import annotations

from slipway.vmm.arch.aarch64 import layout
from slipway.vmm.arch.aarch64.fdt import Node, encode_cells, encode_pairs, encode_texts, flatten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.spec import Plan

_GIC = 1  # phandle
# First cell of an interrupt: shared by all vCPUs, or of one vCPU. Third: how it is triggered.
_SHARED, _PRIVATE = 0, 1
_EDGE, _LEVEL = 1, 4
# Interrupts of the timers: secure, non-secure, virtual, hypervisor (Arm's Base System
# Architecture).
_TIMERS = (13, 14, 11, 10)
# The rate of a 16550's clock is only a number to set divisors by.
_SERIAL_CLOCK = 1_843_200
# Of Uart(has_wide_fifo=True), in bytes.
_SERIAL_FIFO = 64


def build_device_tree(
    plan: Plan, regions: Sequence[tuple[int, int]], ramdisk: tuple[int, int], seed: bytes
) -> bytes:
    """Return the blob of a machine.

    ``regions`` are address and size of each part of the memory, ``ramdisk`` those of the initramfs,
    all in bytes. From ``seed`` the guest's first random numbers are made.
    """
    cells = {"#address-cells": encode_cells(2), "#size-cells": encode_cells(2)}
    memory = b"".join(encode_pairs(*region) for region in regions)
    serials = [find_serial_address(number) for number in range(plan.serials)]
    return flatten(
        Node(
            "",
            {
                **cells,
                "compatible": encode_texts("linux,dummy-virt"),
                "interrupt-parent": encode_cells(_GIC),
            },
            _build_chosen(plan.command_line, ramdisk, seed),
            Node(
                "aliases",
                {f"serial{n}": encode_texts(f"/serial@{at:x}") for n, at in enumerate(serials)},
            ),
            Node(
                f"memory@{regions[0][0]:x}", {"device_type": encode_texts("memory"), "reg": memory}
            ),
            _build_cpus(plan.cpus),
            Node(
                "psci",
                {
                    "compatible": encode_texts("arm,psci-1.0", "arm,psci-0.2"),
                    "method": encode_texts("hvc"),
                },
            ),
            Node(
                "timer",
                {
                    "compatible": encode_texts("arm,armv8-timer"),
                    "interrupts": b"".join(
                        encode_cells(_PRIVATE, line, _LEVEL) for line in _TIMERS
                    ),
                    "always-on": b"",
                },
            ),
            _build_gic(cells, plan.cpus),
            *(_build_serial(number, at) for number, at in enumerate(serials)),
            *(_build_virtio(number) for number in range(plan.virtio)),
        )
    )


def find_serial_address(number: int) -> int:
    """Return the address of serial port ``number``."""
    return layout.SERIAL + number * layout.SERIAL_DISTANCE


def find_virtio_address(number: int) -> int:
    """Return the address of virtio device ``number``."""
    return layout.VIRTIO + number * layout.VIRTIO_SIZE


def _build_chosen(command_line: str, ramdisk: tuple[int, int], seed: bytes) -> Node:
    start, size = ramdisk
    properties = {"bootargs": encode_texts(command_line), "rng-seed": seed}
    if size:
        properties["linux,initrd-start"] = encode_pairs(start)
        properties["linux,initrd-end"] = encode_pairs(start + size)
    return Node("chosen", properties)


def _build_cpus(count: int) -> Node:
    return Node(
        "cpus",
        {"#address-cells": encode_cells(1), "#size-cells": encode_cells(0)},
        *(
            Node(
                f"cpu@{number:x}",
                {
                    "device_type": encode_texts("cpu"),
                    "compatible": encode_texts("arm,armv8"),
                    "reg": encode_cells(number),
                    "enable-method": encode_texts("psci"),
                },
            )
            for number in range(count)
        ),
    )


def _build_gic(cells: dict[str, bytes], cpus: int) -> Node:
    return Node(
        f"interrupt-controller@{layout.DISTRIBUTOR:x}",
        {
            **cells,
            "compatible": encode_texts("arm,gic-v3"),
            "#interrupt-cells": encode_cells(3),
            "interrupt-controller": b"",
            "reg": encode_pairs(
                *(layout.DISTRIBUTOR, layout.DISTRIBUTOR_SIZE),
                *(layout.REDISTRIBUTORS, cpus * layout.REDISTRIBUTOR_SIZE),
            ),
            "phandle": encode_cells(_GIC),
        },
    )


def _build_serial(number: int, address: int) -> Node:
    return Node(
        f"serial@{address:x}",
        {
            "compatible": encode_texts("ns16550a"),
            "reg": encode_pairs(address, layout.SERIAL_SIZE),
            "interrupts": encode_cells(_SHARED, layout.SERIAL_LINE + number, _EDGE),
            "clock-frequency": encode_cells(_SERIAL_CLOCK),
            "fifo-size": encode_cells(_SERIAL_FIFO),
            # The driver fills the transmitter once this many bytes or fewer are left in it.
            "tx-threshold": encode_cells(0),
        },
    )


def _build_virtio(number: int) -> Node:
    address = find_virtio_address(number)
    return Node(
        f"virtio_mmio@{address:x}",
        {
            "compatible": encode_texts("virtio,mmio"),
            "reg": encode_pairs(address, layout.VIRTIO_SIZE),
            "interrupts": encode_cells(_SHARED, layout.VIRTIO_LINE + number, _EDGE),
            "dma-coherent": b"",
        },
    )
