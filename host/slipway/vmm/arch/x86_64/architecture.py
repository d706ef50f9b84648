"""Functions of x86-64; see :class:`slipway.vmm.arch.model.Architecture`."""

from __future__ import annotations

from slipway._model.errors import InputError
from slipway._util.units import MIB
from slipway.vmm.arch.x86_64 import acpi, boot, layout, processor
from slipway.vmm.arch.x86_64.kernel import open_kernel
from slipway.vmm.arch.x86_64.processor_state import X86ProcessorState
from slipway.vmm.devices import state_codec as saved
from slipway.vmm.devices.i8042 import I8042
from slipway.vmm.devices.rtc import Rtc
from slipway.vmm.kvm.x86_64 import place_real_mode_pages

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

# reboot=k: a reset by the keyboard controller is an end that the guest asked for; a triple fault
# stays what it is, a crash. The clock is KVM's, there is no PCI, and no more than two UARTs.
KERNEL_ARGUMENTS = "reboot=k pci=off 8250.nr_uarts=2"
MACHINE_TYPE = 0

_SERIALS = ((layout.COM1, layout.COM1_IRQ), (layout.COM2, layout.COM2_IRQ))

prepare_vcpu = processor.prepare
describe_vcpu = processor.describe


def memory_regions(size: int) -> list[tuple[int, int]]:
    """RAM from 0 on, and what the hole of the devices leaves no room for from 4 GiB on."""
    low = min(size, layout.HOLE)
    high = size - low
    return [(0, low), *([(layout.HOLE_END, high)] if high else [])]


def create_interrupts(vm: Vm) -> None:
    """PIC, IOAPIC and local APICs, in the kernel; no PIT, as the APICs' timers need none."""
    place_real_mode_pages(vm, layout.IDENTITY_MAP, layout.TASK_STATE)
    vm.create_irqchip()


def load(memory: GuestMemory, kernel: str, initramfs: Sequence[str], plan: Plan) -> int:
    """Put into memory what the guest starts with; returns the kernel's entry."""
    command_line = plan.command_line.encode("utf-8", "surrogateescape")
    if len(command_line) >= layout.COMMAND_LINE_SIZE:
        raise InputError(
            f"the kernel's command line has {len(command_line)} bytes, and at most"
            f" {layout.COMMAND_LINE_SIZE - 1} fit",
        )
    end = memory.regions[0].end
    with open_kernel(kernel) as image:
        image.check_fits(end)
        for segment in image.segments:
            target = memory.view(segment.address, segment.file_size)
            image.read_segment_into(segment, target)
        ramdisk = place_initramfs(memory, initramfs, image.end, end)
        entry = image.entry
    board = acpi.AcpiBoard(
        cpus=plan.cpus,
        serials=tuple(acpi.IsaSerial(*place) for place in _SERIALS[: plan.serials]),
        virtio=tuple(
            acpi.VirtioResource(
                _find_virtio_address(number), layout.VIRTIO_SIZE, virtio_line(number)
            )
            for number in range(plan.virtio)
        ),
        # KVM's clock tells the time of day as well; reading this one takes 150 exits.
        rtc=False,
        local_apic=layout.LOCAL_APIC,
        io_apic=layout.IO_APIC,
    )
    memory.write(layout.ACPI, acpi.build_tables(board, layout.ACPI))
    boot.write_tables(memory)
    boot.write_zero_page(memory, command_line, ramdisk, layout.ACPI)
    return entry


def place_initramfs(
    memory: GuestMemory, archives: Sequence[str], start: int, end: int
) -> tuple[int, int]:
    """Load ``archives`` one after the other to the end of the memory from ``start`` to ``end``.

    Each begins on a page of its own; the kernel skips the zeros between them. Returns address and
    size, in bytes.

    Raises:
        InputError: there is not enough room.
        HostError: one cannot be read.
    """
    from slipway.vmm.files import open_files

    with open_files(archives) as files:
        sizes = [-(-size // layout.PAGE) * layout.PAGE for _, size in files]
        total = sum(sizes)
        address = (end - total) // layout.PAGE * layout.PAGE
        if address < start:
            raise InputError(
                f"kernel and initramfs need {(start + total) // MIB + 1} MiB of memory to be"
                f" loaded, and the machine has {end // MIB}",
                "Give it more: --memory.",
            )
        at = address
        for (descriptor, size), room in zip(files, sizes, strict=True):
            memory.load(at, descriptor, size)
            at += room
    return address, total


def serial_line(number: int) -> int:
    """COM1 has ISA interrupt 4, COM2 3."""
    return _SERIALS[number][1]


def virtio_line(number: int) -> int:
    """The IOAPIC's lines that follow those of ISA."""
    return layout.VIRTIO_LINE + number


def _find_virtio_address(number: int) -> int:
    return layout.VIRTIO + number * layout.VIRTIO_SIZE


def attach_serial(vm: Vm, bus: Bus, number: int, uart: Uart) -> None:
    """COM1 or COM2."""
    port = _SERIALS[number][0]
    bus.add_port(port, layout.SERIAL_PORTS, uart)
    # THR is the first register; the divisor that shares its port is written there as well, and
    # either comes out of the ring before the next access to any other register.
    vm.coalesce_port(port)
    bus.add_burst(port, uart.write_burst)


def attach_virtio(bus: Bus, number: int, device: Device) -> None:
    """In the hole below the IOAPIC."""
    bus.add_memory(_find_virtio_address(number), layout.VIRTIO_SIZE, device)


def attach_board(
    bus: Bus, reset: Callable[[], None], clock: Callable[[], float]
) -> dict[str, Stateful]:
    """Keyboard controller and real-time clock."""
    keyboard, rtc = I8042(reset), Rtc(clock)
    bus.add_port(layout.KEYBOARD, layout.KEYBOARD_PORTS, keyboard)
    bus.add_port(layout.RTC, layout.RTC_PORTS, rtc)
    return {"keyboard": keyboard, "clock": rtc}


def restore_board(devices: dict[str, Any], states: dict[str, Any]) -> None:
    """Those two."""
    devices["keyboard"].restore(saved.decode_keyboard(states.get("keyboard")))
    devices["clock"].restore(saved.decode_clock(states.get("clock")))


def create_processor_state(kvm: Kvm) -> X86ProcessorState:
    """Of vCPUs, PIC, IOAPIC and the clock."""
    return X86ProcessorState(kvm)
