"""Specifications of a VM, and of what it boots."""

from __future__ import annotations

from slipway.vmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Ports of the agent: a virtio console, the second UART, or a connection over the network interface.
VIRTIO = "virtio"
SERIAL = "serial"
TCP = "tcp"
PORTS = (VIRTIO, SERIAL, TCP)


@record
class VmConfig:
    """RAM in bytes, number of vCPUs, the agent's port, and whether there is a network interface.

    ``port`` is one of ``PORTS``; for ``TCP`` the network interface is its only device. A VM and its
    clones have the same.
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
