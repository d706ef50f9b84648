"""Specifications of a VM, and of what it boots."""

from __future__ import annotations

from slipway.vmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Devices of the agent's port: a virtio console, and the second UART.
VIRTIO = "virtio"
SERIAL = "serial"
# Ports of the agent, with their devices. The agent of a machine with both takes one; that of TCP
# has a connection over the network interface.
AUTO = "auto"
TCP = "tcp"
PORTS = {AUTO: (VIRTIO, SERIAL), VIRTIO: (VIRTIO,), SERIAL: (SERIAL,), TCP: ()}


@record
class VmConfig:
    """RAM in bytes, number of vCPUs, the agent's port, and whether there is a network interface.

    ``port`` is a key of ``PORTS``. A VM and its clones have the same.
    """

    memory_bytes: int
    cpus: int
    port: str
    network: bool = False


@record
class BootSpec:
    """Kernel, initramfs archives (loaded one after the other), and the kernel's command line."""

    kernel: str
    initramfs: Sequence[str]
    command_line: str


@record
class Plan:
    """Command line and counts of devices that a guest is told of when it boots."""

    command_line: str
    cpus: int
    serials: int
    virtio: int
