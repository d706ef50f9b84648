"""Functions of x86-64; see :class:`slipway.vmm.arch.model.Architecture`."""

from __future__ import annotations

from slipway._util.errors import InputError
from slipway.vmm.arch.x86_64 import acpi, boot, kernel, layout, processor
from slipway.vmm.arch.x86_64.processor_state import X86ProcessorState
from slipway.vmm.devices import state_codec as saved
from slipway.vmm.devices.i8042 import I8042
from slipway.vmm.devices.rtc import Rtc
from slipway.vmm.kvm.x86_64 import place_real_mode_pages
from slipway.vmm.memory import HUGE_PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from slipway.vmm.arch.model import Parts, Stateful
    from slipway.vmm.bus import Bus
    from slipway.vmm.devices.model import Device
    from slipway.vmm.devices.uart import Uart
    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm
    from slipway.vmm.memory import GuestMemory
    from slipway.vmm.spec import Plan

# reboot=k: a reset by the keyboard controller is an end that the guest requested, and a triple
# fault is a crash. The clock is KVM's; PCI is missing, and two UARTs are the most.
KERNEL_ARGUMENTS = "reboot=k pci=off 8250.nr_uarts=2"

# ACPI names no size: drivers probe for a 16750, if they know it.
HAS_WIDE_FIFOS = False

_SERIALS = ((layout.COM1, layout.COM1_IRQ), (layout.COM2, layout.COM2_IRQ))

open_kernel = kernel.open_kernel
prepare_vcpu = processor.prepare
describe_vcpu = processor.describe


def find_machine_type(kvm: Kvm) -> int:
    """Return the only type."""
    return 0


def place_memory(size: int) -> list[tuple[int, int]]:
    """Place RAM from 0 on; the part that does not fit below the devices' hole starts at 4 GiB."""
    low = min(size, layout.HOLE)
    high = size - low
    return [(0, low), *([(layout.HOLE_END, high)] if high else [])]


def create_interrupts(vm: Vm) -> None:
    """Make PIC, IOAPIC and local APICs in the kernel; the APICs' timers replace a PIT."""
    place_real_mode_pages(vm, layout.IDENTITY_MAP, layout.TASK_STATE)
    vm.create_irqchip()


def connect_vcpus(vm: Vm, vcpus: Sequence[Vcpu]) -> None:
    """Leave all as it is: a vCPU has its local APIC from the start."""


def find_initramfs_end(memory: GuestMemory) -> int:
    """Return the end of the memory below the devices' hole."""
    return memory.regions[0].end


def find_initramfs_place(memory_bytes: int, size: int) -> int | None:
    """Return the place behind the memory, as far as the devices' hole."""
    start = -(-memory_bytes // HUGE_PAGE) * HUGE_PAGE
    return start if start + size <= layout.HOLE else None


def write_tables(memory: GuestMemory, plan: Plan, initramfs: tuple[int, int]) -> None:
    """Write ACPI tables, GDT, page tables, command line and zero page."""
    command_line = plan.command_line.encode("utf-8", "surrogateescape")
    if len(command_line) >= layout.COMMAND_LINE_SIZE:
        raise InputError(
            f"the kernel's command line has {len(command_line)} bytes, and at most"
            f" {layout.COMMAND_LINE_SIZE - 1} fit",
        )
    board = acpi.AcpiBoard(
        cpus=plan.cpus,
        serials=tuple(acpi.IsaSerial(*place) for place in _SERIALS[: plan.serials]),
        virtio=tuple(
            acpi.VirtioResource(
                _find_virtio_address(number), layout.VIRTIO_SIZE, find_virtio_line(number)
            )
            for number in range(plan.virtio)
        ),
        # KVM's clock has the time of day as well; to read the CMOS clock takes 150 exits.
        rtc=False,
        local_apic=layout.LOCAL_APIC,
        io_apic=layout.IO_APIC,
    )
    memory.write(layout.ACPI, acpi.build_tables(board, layout.ACPI))
    boot.write_tables(memory)
    boot.write_zero_page(memory, command_line, initramfs, layout.ACPI)


def find_serial_line(number: int) -> int:
    """Return ISA interrupt 4 for COM1, 3 for COM2."""
    return _SERIALS[number][1]


def find_virtio_line(number: int) -> int:
    """Return a line of the IOAPIC behind those of ISA."""
    return layout.VIRTIO_LINE + number


def _find_virtio_address(number: int) -> int:
    return layout.VIRTIO + number * layout.VIRTIO_SIZE


def attach_serial(vm: Vm, bus: Bus, number: int, uart: Uart) -> None:
    """Attach COM1 or COM2."""
    port = _SERIALS[number][0]
    bus.add_port(port, layout.SERIAL_PORTS, uart)
    # The first register takes data, or the divisor. Both leave the ring before the next access to
    # any other register.
    vm.coalesce_port(port)
    bus.add_burst(port, uart.write_burst)


def attach_virtio(bus: Bus, number: int, device: Device) -> None:
    """Attach a device in the hole below the IOAPIC."""
    bus.add_memory(_find_virtio_address(number), layout.VIRTIO_SIZE, device)


def attach_board(
    bus: Bus, reset: Callable[[], None], clock: Callable[[], float]
) -> dict[str, Stateful]:
    """Attach keyboard controller and real-time clock."""
    keyboard, rtc = I8042(reset), Rtc(clock)
    bus.add_port(layout.KEYBOARD, layout.KEYBOARD_PORTS, keyboard)
    bus.add_port(layout.RTC, layout.RTC_PORTS, rtc)
    return {"keyboard": keyboard, "clock": rtc}


def restore_board(devices: dict[str, Any], states: dict[str, Any]) -> None:
    """Restore keyboard controller and real-time clock."""
    devices["keyboard"].restore(saved.decode_keyboard(states.get("keyboard")))
    devices["clock"].restore(saved.decode_clock(states.get("clock")))


def create_processor_state(kvm: Kvm) -> X86ProcessorState:
    """Return the state of vCPUs, PIC, IOAPIC and KVM's clock."""
    return X86ProcessorState(kvm)


def drop_initial_values(vcpus: Sequence[Parts]) -> list[Parts]:
    """Return all values: KVM sets them in a dozen calls."""
    return list(vcpus)


def list_host_facts(kvm: Kvm) -> list[object]:
    """Return the processor's model, its CPUID as KVM shows it, and its model-specific registers."""
    from slipway.vmm.arch.x86_64 import host_facts

    return host_facts.list_facts(kvm)
