"""Functions of aarch64; see :class:`slipway.vmm.arch.model.Architecture`."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing

from slipway._util.errors import InputError
from slipway.vmm.arch.aarch64 import device_tree, kernel, layout, processor
from slipway.vmm.arch.aarch64.processor_state import ArmProcessorState
from slipway.vmm.kvm import aarch64, aarch64_state
from slipway.vmm.kvm.system import Kvm
from slipway.vmm.memory import HUGE_PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from slipway.vmm.arch.model import Parts, Stateful
    from slipway.vmm.bus import Bus
    from slipway.vmm.devices.model import Device
    from slipway.vmm.devices.uart import Uart
    from slipway.vmm.kvm.vm import Vm
    from slipway.vmm.memory import GuestMemory
    from slipway.vmm.spec import Plan

# Two UARTs are the most. Without cma=0, the kernel reserves 64 MiB for devices, which an image's
# minimum memory lacks. Clock, reset and further vCPUs need no argument: all is in the device tree.
KERNEL_ARGUMENTS = "8250.nr_uarts=2 cma=0"
# By fifo-size in the device tree.
HAS_WIDE_FIFOS = True
_SEED_BYTES = 64

open_kernel = kernel.open_kernel
find_machine_type = aarch64.find_machine_type
connect_vcpus = processor.connect
prepare_vcpu = processor.prepare
describe_vcpu = processor.describe


def place_memory(size: int) -> list[tuple[int, int]]:
    """Place RAM behind all devices."""
    return [(layout.RAM, size)]


def create_interrupts(vm: Vm) -> None:
    """Leave all as it is: the GIC is made for the vCPUs that exist."""


def find_initramfs_end(memory: GuestMemory) -> int:
    """Return the end of the memory, or of its first 4 GiB."""
    return min(memory.regions[0].end, layout.INITRAMFS_END)


def find_initramfs_place(memory_bytes: int, size: int) -> int | None:
    """Return the place behind the memory, in the first 4 GiB from its start on."""
    start = layout.RAM + -(-memory_bytes // HUGE_PAGE) * HUGE_PAGE
    return start if start + size <= layout.INITRAMFS_END else None


def write_tables(memory: GuestMemory, plan: Plan, initramfs: tuple[int, int]) -> None:
    """Write the device tree."""
    length = len(plan.command_line.encode("utf-8", "surrogateescape"))
    if length >= layout.COMMAND_LINE_SIZE:
        raise InputError(
            f"the kernel's command line has {length} bytes, and at most"
            f" {layout.COMMAND_LINE_SIZE - 1} fit",
        )
    (region,) = memory.regions
    places = [(region.address, region.size)]
    if initramfs[0] >= region.end and initramfs[1]:
        places.append(initramfs)
    # The first random numbers of a guest: else its kernel waits for some.
    seed = os.urandom(_SEED_BYTES)
    tree = device_tree.build_device_tree(plan, places, initramfs, seed)
    check_device_tree(tree)
    memory.write(layout.DEVICE_TREE, tree)


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


def drop_initial_values(vcpus: Sequence[Parts]) -> list[Parts]:
    """Compare ``vcpus`` with those of a new VM, which runs nothing and is closed again."""
    with ExitStack() as stack:
        kvm = stack.enter_context(closing(Kvm()))
        vm = stack.enter_context(closing(kvm.create_vm(find_machine_type(kvm))))
        create_interrupts(vm)
        new = [stack.enter_context(closing(vm.create_vcpu(n))) for n in range(len(vcpus))]
        connect_vcpus(vm, new)
        return [
            aarch64_state.drop_initial_values(vcpu, parts)
            for vcpu, parts in zip(new, vcpus, strict=True)
        ]


def list_host_facts(kvm: Kvm) -> list[object]:
    """Return the processor's model, the registers of its vCPUs, and its features."""
    from slipway.vmm.arch.aarch64 import host_facts

    return host_facts.list_facts(kvm)
