"""Specifications of a VM, and of what it boots."""

from __future__ import annotations

from slipway.vmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipway.vmm.pages import Range

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
class BootTemplate:
    """Content of a boot template (:mod:`slipway.vmm.boot_template`) in the open ``file``.

    ``entry`` and ``end`` are guest physical addresses: the kernel's entry, and the end of the
    memory that it takes. ``kernel`` has the pieces of the file with its bytes, ``initramfs`` offset
    and size of the archives there, all in bytes.
    """

    file: int
    entry: int
    end: int
    kernel: Sequence[Range]
    initramfs: Range


@record
class BootSpec:
    """Kernel, initramfs archives (loaded one after the other), and the kernel's command line.

    With ``template`` the first two come from there, and the files are not opened.
    """

    kernel: str
    initramfs: Sequence[str]
    command_line: str
    template: BootTemplate | None = None


@record
class Plan:
    """Command line and counts of devices that a guest is told of when it boots."""

    command_line: str
    cpus: int
    serials: int
    virtio: int
