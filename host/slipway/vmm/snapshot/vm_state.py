"""Saving and restoring of a VM that stands still."""

from __future__ import annotations

import os

from slipway._util.errors import HostError
from slipway.vmm.devices import state_codec as states
from slipway.vmm.devices.uart import Uart
from slipway.vmm.devices.virtqueue import DriverError
from slipway.vmm.memory import GuestAddressError
from slipway.vmm.snapshot import state_file as snapshot
from slipway.vmm.snapshot.pieces import write_pieces
from slipway.vmm.snapshot.state_file import Saved
from slipway.vmm.spec import SERIAL, VIRTIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from slipway.vmm.arch.model import Architecture, Stateful
    from slipway.vmm.kvm.system import Kvm
    from slipway.vmm.kvm.vcpu import Vcpu
    from slipway.vmm.kvm.vm import Vm
    from slipway.vmm.memory import GuestMemory
    from slipway.vmm.spec import VmConfig


class StateSaver:
    """Saver of one VM's vCPUs, interrupt controllers and devices; ``devices`` by name."""

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
        self._processors = architecture.create_processor_state(kvm)
        self._name = os.uname().machine

    def save(self, config: VmConfig, channel: int) -> None:
        """Write memory and state to ``channel``, in pieces.

        Raises:
            HostError: KVM refuses a call.
        """
        vcpus, machine = self._processors.save(self._vm, self._vcpus)
        devices = {
            name: states.encode(device.save_state()) for name, device in self._devices.items()
        }
        body = snapshot.pack_body(
            Saved(
                architecture=self._name,
                memory=config.memory_bytes,
                cpus=config.cpus,
                port=config.port,
                network=config.network,
                vcpus=vcpus,
                machine=machine,
                devices=devices,
                working_set=[],
            )
        )
        write_pieces(channel, self._memory.view_all(), body)

    def restore(self, saved: Saved) -> list[str]:
        """Restore ``saved`` in this VM, which is new.

        Return the ports that have interrupted the guest without an answer. KVM passes such an edge
        to its interrupt controllers a moment later, so that the saved controllers may not know it.
        Hence the edge has to be repeated; a driver that has handled it finds no further work.

        Raises:
            HostError: the state is not of this host, or of another configuration.
        """
        snapshot.check_architecture(saved, self._name)
        self._processors.restore(self._vm, self._vcpus, (saved.vcpus, saved.machine))
        try:
            return self._restore_devices(saved.devices)
        except (ValueError, DriverError, GuestAddressError) as error:
            raise HostError(f"the snapshot's devices do not fit this machine: {error}") from None

    def _restore_devices(self, saved: dict[str, Any]) -> list[str]:
        devices: dict[str, Any] = self._devices
        interrupting: list[str] = []
        for name in ("console", VIRTIO, SERIAL, "network"):
            if name not in devices:
                continue
            device, value = devices[name], saved.get(name)
            due: object
            if name == "network":
                transport = states.decode_transport(value, len(device.queues))
                device.restore(transport)
                due = transport.interrupt_status
            elif isinstance(device, Uart):
                port = states.decode_uart(value)
                device.restore(port)
                due = port.asserted
            else:
                console = states.decode_console(value)
                device.restore(console)
                due = console.transport.interrupt_status
            if due:
                interrupting.append(name)
        self._arch.restore_board(devices, saved)
        return interrupting
