"""Protocol of an architecture, and the values that it exchanges with the rest of the VMM.

Each architecture is a package of the same functions. Another one is a package beside x86_64, its
case in :func:`slipway.vmm.arch.host.find_architecture`, and the part of KVM's interface that only
this architecture has, beside kvm/x86_64.py.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from slipway.vmm.bus import Bus
    from slipway.vmm.devices.model import Device
    from slipway.vmm.devices.uart import Uart
    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm
    from slipway.vmm.memory import GuestMemory
    from slipway.vmm.spec import Plan

    class Architecture(Protocol):
        """The functions of an architecture's package."""

        KERNEL_ARGUMENTS: str
        """What the kernel's command line needs on this machine."""
        MACHINE_TYPE: int
        """The argument of KVM_CREATE_VM."""

        def memory_regions(self, size: int) -> list[tuple[int, int]]:
            """Where ``size`` bytes of RAM are: (guest address, size) each."""
            ...

        def create_interrupts(self, vm: Vm) -> None:
            """Make what has to be there before the first vCPU."""
            ...

        def load(
            self, memory: GuestMemory, kernel: str, initramfs: Sequence[str], plan: Plan
        ) -> int:
            """Put into memory all that the kernel starts with; returns its entry.

            ``initramfs`` are archives, which it gets one after the other.

            Raises:
                InputError: one of them is not what it should be, or they do not fit.
            """
            ...

        def prepare_vcpu(self, kvm: Kvm, vcpu: Vcpu, count: int, entry: int) -> None:
            """Bring ``vcpu``, one of ``count``, to where it may run."""
            ...

        def serial_line(self, number: int) -> int:
            """The interrupt line of serial port ``number`` (0 or 1)."""
            ...

        def virtio_line(self, number: int) -> int:
            """The interrupt line of virtio device ``number``."""
            ...

        def attach_serial(self, vm: Vm, bus: Bus, number: int, uart: Uart) -> None:
            """Put a serial port where the guest looks for it, its transmit register coalesced."""
            ...

        def attach_virtio(self, bus: Bus, number: int, device: Device) -> None:
            """Put a virtio-mmio device where the guest is told that it is."""
            ...

        def attach_board(
            self, bus: Bus, reset: Callable[[], None], clock: Callable[[], float]
        ) -> dict[str, Stateful]:
            """Put the small devices of the board where they belong; which those are, by names."""
            ...

        def describe_vcpu(self, vcpu: Vcpu, memory: GuestMemory) -> list[str]:
            """Registers and instruction bytes of a vCPU that does not run, in lines."""
            ...

        def create_processor_state(self, kvm: Kvm) -> ProcessorState:
            """What takes down, and sets, the processors of a VM."""
            ...

        def restore_board(self, devices: dict[str, Stateful], states: dict[str, Any]) -> None:
            """Make the devices of the board what ``states`` say; ValueError if those are none."""
            ...

    class ProcessorState(Protocol):
        """Knows what this host's KVM can tell of a vCPU; asked before the VM is confined."""

        def save(self, vm: Vm, vcpus: Sequence[Vcpu]) -> tuple[list[Parts], Parts]:
            """All of the vCPUs, which stand still, and of the VM around them.

            Raises:
                HostError: KVM refuses.
            """
            ...

        def restore(self, vm: Vm, vcpus: Sequence[Vcpu], saved: tuple[list[Parts], Parts]) -> None:
            """Make a VM whose vCPUs are new what :meth:`save` gave of another.

            Raises:
                HostError: that was none of this host.
            """
            ...

    class Stateful(Protocol):
        """A device whose state can be taken down."""

        def save_state(self) -> object:
            """A copy of the state as it is."""
            ...

    Parts = dict[str, bytes | int]
