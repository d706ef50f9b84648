"""Takes a VM that stands still down to a channel, and makes another what it was."""

from __future__ import annotations

import os

from slipway._model.errors import HostError
from slipway.vmm import control, snapshot
from slipway.vmm.devices import saved as states
from slipway.vmm.devices.uart import Uart
from slipway.vmm.devices.virtqueue import DriverError
from slipway.vmm.memory import GuestAddressError
from slipway.vmm.pagemap import PAGE
from slipway.vmm.snapshot import Saved

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from slipway.vmm.arch import Architecture, Stateful
    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm
    from slipway.vmm.memory import GuestMemory
    from slipway.vmm.microvm import Shape

_ZEROS = bytes(control.PIECE_BYTES)
_ZERO_PAGE = bytes(PAGE)


class Keeper:
    """Of the parts of one VM; ``devices`` by their names."""

    def __init__(
        self,
        architecture: Architecture,
        kvm: Kvm,
        vm: Vm,
        vcpus: Sequence[Vcpu],
        devices: dict[str, Stateful],
        memory: GuestMemory,
    ) -> None:
        self._arch = architecture
        self._vm = vm
        self._vcpus = vcpus
        self._devices = devices
        self._memory = memory
        self._processors = architecture.keeper(kvm)
        self._name = os.uname().machine

    def save(self, shape: Shape, channel: int) -> None:
        """Write memory and state to ``channel``, in pieces.

        Raises:
            HostError: KVM refuses.
        """
        vcpus, machine = self._processors.save(self._vm, self._vcpus)
        devices = {name: states.encode(device.state()) for name, device in self._devices.items()}
        body = snapshot.pack_body(
            Saved(
                architecture=self._name,
                memory=shape.memory,
                cpus=shape.cpus,
                virtio=shape.virtio,
                vcpus=vcpus,
                machine=machine,
                devices=devices,
                working_set=[],
            )
        )
        for start, data in filled(self._memory.all()):
            os.writev(channel, [control.PIECE.pack(control.OF_MEMORY, start), data])
        for start in range(0, len(body), control.PIECE_BYTES):
            data = body[start : start + control.PIECE_BYTES]
            os.writev(channel, [control.PIECE.pack(control.OF_STATE, start), data])

    def restore(self, saved: Saved) -> list[str]:
        """Make this VM, which is new, what was saved of another.

        Returns which ports have interrupted the guest without an answer. KVM brings such an edge to
        its interrupt controllers a moment later, so that they may not have known of it yet: it has
        to come again, and a driver that has been there already finds nothing to do.

        Raises:
            HostError: that was none of this host and shape.
        """
        if saved.architecture != self._name:
            raise HostError(f"the snapshot is of the architecture {saved.architecture:.20}")
        self._processors.restore(self._vm, self._vcpus, (saved.vcpus, saved.machine))
        try:
            return self._restore_devices(saved.devices)
        except (ValueError, DriverError, GuestAddressError) as error:
            raise HostError(f"the snapshot's devices are none of this machine: {error}") from None

    def _restore_devices(self, saved: dict[str, Any]) -> list[str]:
        devices: dict[str, Any] = self._devices
        interrupting = []
        for name in ("console", "agent"):
            device, value = devices[name], saved.get(name)
            due: object
            if isinstance(device, Uart):
                port = states.uart(value)
                device.restore(port)
                due = port.asserted
            else:
                console = states.console(value)
                device.restore(console)
                due = console.transport.interrupt_status
            if due:
                interrupting.append(name)
        self._arch.restore_board(devices, saved)
        return interrupting


def filled(memory: memoryview) -> Iterator[tuple[int, bytes]]:
    """Pieces of ``memory`` without pages of zeros: where each begins, and a copy."""
    for start in range(0, len(memory), control.PIECE_BYTES):
        # A copy compares much faster than a view.
        piece = bytes(memory[start : start + control.PIECE_BYTES])
        if piece == _ZEROS[: len(piece)]:
            continue
        begin = None
        for at in range(0, len(piece), PAGE):
            if piece[at : at + PAGE] != _ZERO_PAGE:
                begin = at if begin is None else begin
            elif begin is not None:
                yield start + begin, piece[begin:at]
                begin = None
        if begin is not None:
            yield start + begin, piece[begin:]
