"""Functions of aarch64; see :class:`slipway.vmm.arch.model.Architecture`."""

from __future__ import annotations

import os

from slipway._util.errors import InputError
from slipway.vmm.arch.aarch64 import device_tree, layout, processor
from slipway.vmm.arch.aarch64.kernel import open_kernel
from slipway.vmm.arch.aarch64.processor_state import ArmProcessorState
from slipway.vmm.files import place_initramfs
from slipway.vmm.kvm import aarch64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from slipway.vmm.arch.model import Stateful
    from slipway.vmm.bus import Bus
    from slipway.vmm.devices.model import Device
    from slipway.vmm.devices.uart import Uart
    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vm import Vm
    from slipway.vmm.memory import GuestMemory
    from slipway.vmm.spec import Plan

# Two UARTs are the most. Without cma=0, the kernel reserves 64 MiB for devices, which an image's
# minimum memory lacks. Clock, reset and further vCPUs need no argument: all is in the device tree.
KERNEL_ARGUMENTS = "8250.nr_uarts=2 cma=0"
# By fifo-size in the device tree.
HAS_WIDE_FIFOS = True
_SEED_BYTES = 64

find_machine_type = aarch64.find_machine_type
connect_vcpus = processor.connect
prepare_vcpu = processor.prepare
describe_vcpu = processor.describe


def place_memory(size: int) -> list[tuple[int, int]]:
    """Place RAM behind all devices."""
    return [(layout.RAM, size)]


def create_interrupts(vm: Vm) -> None:
    """Leave all as it is: the GIC is made for the vCPUs that exist."""


def load(memory: GuestMemory, kernel: str, initramfs: Sequence[str], plan: Plan) -> int:
    """Load kernel, initramfs and device tree; return the kernel's entry."""
    length = len(plan.command_line.encode("utf-8", "surrogateescape"))
    if length >= layout.COMMAND_LINE_SIZE:
        raise InputError(
            f"the kernel's command line has {length} bytes, and at most"
            f" {layout.COMMAND_LINE_SIZE - 1} fit",
        )
    (region,) = memory.regions
    end = min(region.end, layout.INITRAMFS_END)
    with open_kernel(kernel) as image:
        image.check_fits(end)
        image.read_into(memory.view(image.address, image.size))
        ramdisk = place_initramfs(memory, initramfs, image.end, end)
        entry = image.address
    # The first random numbers of a guest: else its kernel waits for some.
    seed = os.urandom(_SEED_BYTES)
    tree = device_tree.build_device_tree(plan, [(region.address, region.size)], ramdisk, seed)
    check_device_tree(tree)
    memory.write(layout.DEVICE_TREE, tree)
    return entry


def check_device_tree(tree: bytes) -> None:
    """Check that a device tree fits into its place.

    Raises:
        InputError: the tree is too large.
    """
    if len(tree) > layout.DEVICE_TREE_SIZE:
        raise InputError(
            f"the machine's device tree has {len(tree)} bytes, and at most"
            f" {layout.DEVICE_TREE_SIZE} fit",
            "Give the machine fewer vCPUs or devices.",
        )


def find_serial_line(number: int) -> int:
    """Return one of the first lines."""
    return layout.SERIAL_LINE + number


def find_virtio_line(number: int) -> int:
    """Return a line behind those of the serial ports."""
    return layout.VIRTIO_LINE + number


def attach_serial(vm: Vm, bus: Bus, number: int, uart: Uart) -> None:
    """Attach a UART whose registers are bytes in memory."""
    address = device_tree.find_serial_address(number)
    bus.add_memory(address, layout.SERIAL_SIZE, uart)
    # The first register takes data, or the divisor. Both leave the ring before the next access to
    # any other register.
    vm.coalesce_memory(address, 1)
    bus.add_burst(address, uart.write_burst)


def attach_virtio(bus: Bus, number: int, device: Device) -> None:
    """Attach a device at the address of its node in the device tree."""
    bus.add_memory(device_tree.find_virtio_address(number), layout.VIRTIO_SIZE, device)


def attach_board(
    bus: Bus, reset: Callable[[], None], clock: Callable[[], float]
) -> dict[str, Stateful]:
    """Attach nothing: KVM's PSCI resets, and the host tells the time."""
    return {}


def restore_board(devices: dict[str, Any], states: dict[str, Any]) -> None:
    """Restore nothing."""


def create_processor_state(kvm: Kvm) -> ArmProcessorState:
    """Return the state of vCPUs and GIC."""
    return ArmProcessorState()


def list_host_facts(kvm: Kvm) -> list[object]:
    """Return the processor's model, the registers of its vCPUs, and its features."""
    from slipway.vmm.arch.aarch64 import host_facts

    return host_facts.list_facts(kvm)
