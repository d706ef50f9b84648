"""Protocol of an architecture, and the values that it exchanges with the rest of the VMM.

Each architecture is a package of the same functions. Another one is a package beside x86_64, its
case in :func:`slipway.vmm.arch.host.find_architecture`, and the part of KVM's interface that only
this architecture has, beside kvm/x86_64.py.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol, Self

    from slipway.vmm.bus import Bus
    from slipway.vmm.devices.model import Device
    from slipway.vmm.devices.uart import Uart
    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm
    from slipway.vmm.memory import GuestMemory
    from slipway.vmm.spec import Plan

    class Architecture(Protocol):
        """Functions of an architecture's package."""

        KERNEL_ARGUMENTS: str
        """Arguments that the kernel's command line needs on this machine."""
        HAS_WIDE_FIFOS: bool
        """True if the guest is told that its serial ports have FIFOs of 64 bytes."""

        def find_machine_type(self, kvm: Kvm) -> int:
            """Return the argument of KVM_CREATE_VM."""
            ...

        def place_memory(self, size: int) -> list[tuple[int, int]]:
            """Return the places of ``size`` bytes of RAM: (guest address, size) each."""
            ...

        def create_interrupts(self, vm: Vm) -> None:
            """Make the interrupt controllers that come before the first vCPU."""
            ...

        def connect_vcpus(self, vm: Vm, vcpus: Sequence[Vcpu]) -> None:
            """Connect all vCPUs to the interrupt controllers, before the first line is used.

            The vCPUs are new, whether they are to be booted or restored.

            Raises:
                HostError: KVM refuses a call, or the controllers hold fewer vCPUs.
            """
            ...

        def open_kernel(self, path: str) -> Kernel:
            """Open the kernel in the file ``path``, which the result then keeps open.

            Raises:
                InputError: the file cannot be read, or is not a kernel that can be loaded.
            """
            ...

        def find_initramfs_end(self, memory: GuestMemory) -> int:
            """Return the address below which kernel and initramfs have to lie."""
            ...

        def find_initramfs_place(self, memory_bytes: int, size: int) -> int | None:
            """Return the address of an initramfs beside ``memory_bytes`` of RAM.

            None if no such place exists for ``size`` bytes.
            """
            ...

        def write_tables(self, memory: GuestMemory, plan: Plan, initramfs: tuple[int, int]) -> None:
            """Write all that a kernel is told into memory; ``initramfs`` is address and size.

            Raises:
                InputError: the command line or a table is too long.
            """
            ...

        def prepare_vcpu(self, kvm: Kvm, vcpu: Vcpu, count: int, entry: int) -> None:
            """Bring ``vcpu``, of ``count``, to where it may run."""
            ...

        def find_serial_line(self, number: int) -> int:
            """Return the interrupt line of serial port ``number`` (0 or 1)."""
            ...

        def find_virtio_line(self, number: int) -> int:
            """Return the interrupt line of virtio device ``number``."""
            ...

        def attach_serial(self, vm: Vm, bus: Bus, number: int, uart: Uart) -> None:
            """Put a serial port at its address, with coalesced writes to its transmit register."""
            ...

        def attach_virtio(self, bus: Bus, number: int, device: Device) -> None:
            """Put a virtio-mmio device at the address that the guest is told."""
            ...

        def attach_board(
            self, bus: Bus, reset: Callable[[], None], clock: Callable[[], float]
        ) -> dict[str, Stateful]:
            """Put the small devices of the board at their addresses; return them by name."""
            ...

        def describe_vcpu(self, vcpu: Vcpu, memory: GuestMemory) -> list[str]:
            """Return registers and instruction bytes of a stopped vCPU, in lines."""
            ...

        def create_processor_state(self, kvm: Kvm) -> ProcessorState:
            """Return the object that saves and restores the processors of a VM."""
            ...

        def drop_initial_values(self, vcpus: Sequence[Parts]) -> list[Parts]:
            """Return the saved ``vcpus`` without values that new ones have, if that saves calls.

            For the sake of clones: once for all of a snapshot.

            Raises:
                HostError: the state is invalid, or not of this host.
            """
            ...

        def list_host_facts(self, kvm: Kvm) -> list[object]:
            """Return facts of this host's processor and KVM that a snapshot depends on.

            They are the same on each CPU of the host, and after each of its boots.

            Raises:
                HostError: KVM refuses a call.
            """
            ...

        def restore_board(self, devices: dict[str, Stateful], states: dict[str, Any]) -> None:
            """Restore the devices of the board from ``states``.

            Raises:
                ValueError: a state is invalid.
            """
            ...

    class Kernel(Protocol):
        """Kernel in an open file; as a context manager it closes the file."""

        @property
        def entry(self) -> int:
            """The guest physical address of its first instruction."""
            ...

        @property
        def end(self) -> int:
            """The end of the memory that it takes."""
            ...

        def check_fits(self, limit: int) -> None:
            """Check that the kernel fits below the address ``limit``.

            Raises:
                InputError: the memory is too small.
            """
            ...

        def load_into(self, memory: GuestMemory) -> None:
            """Read the kernel to its place in ``memory``, which is zeros.

            Raises:
                InputError: the file has become shorter, or cannot be read.
            """
            ...

        def __enter__(self) -> Self: ...

        def __exit__(self, *_: object) -> None: ...

    class ProcessorState(Protocol):
        """State of vCPUs and interrupt controllers, as far as this host's KVM can report it.

        KVM is asked for that before the VM is confined.
        """

        def save(self, vm: Vm, vcpus: Sequence[Vcpu]) -> tuple[list[Parts], Parts]:
            """Return the state of each vCPU, which stand still, and of the VM around them.

            Raises:
                HostError: KVM refuses a call.
            """
            ...

        def restore(self, vm: Vm, vcpus: Sequence[Vcpu], saved: tuple[list[Parts], Parts]) -> None:
            """Restore the result of :meth:`save` in a VM whose vCPUs are new.

            The vCPUs' state has passed :meth:`Architecture.drop_initial_values`.

            Raises:
                HostError: the state is not of this host.
            """
            ...

    class Stateful(Protocol):
        """Device with a state that can be saved."""

        def save_state(self) -> object:
            """Return a copy of the state."""
            ...

    Parts = dict[str, bytes | int]
