"""A VM of KVM: its memory slots, interrupt lines and coalesced writes."""

from __future__ import annotations

import fcntl
import os

from slipway.vmm.kvm import abi
from slipway.vmm.kvm.failure import explain_failure
from slipway.vmm.kvm.vcpu import Vcpu


class Vm:
    """Owner of the VM's descriptor; the memory belongs to the caller."""

    __slots__ = ("_ring_page", "_run_size", "devices", "fd")

    def __init__(self, fd: int, run_size: int, ring_page: int) -> None:
        self.fd = fd
        # Descriptors of the devices in the kernel, by type.
        self.devices: dict[int, int] = {}
        self._run_size = run_size
        self._ring_page = ring_page

    def set_memory(
        self,
        slot: int,
        guest_address: int,
        size: int,
        host_address: int,
        *,
        is_read_only: bool = False,
    ) -> None:
        """Make ``size`` bytes at ``host_address`` of this process the guest's memory.

        Addresses and size are multiples of a page. The memory stays mapped as long as the VM lives.
        A write to memory that is read-only ends KVM_RUN like one to a device.

        Raises:
            HostError: KVM refuses.
        """
        flags = abi.MEM_READONLY if is_read_only else 0
        region = abi.MEMORY_REGION.pack(slot, flags, guest_address, size, host_address)
        with explain_failure("KVM_SET_USER_MEMORY_REGION"):
            fcntl.ioctl(self.fd, abi.KVM_SET_USER_MEMORY_REGION, region)

    def create_irqchip(self) -> None:
        """Make the interrupt controllers in the kernel, before any vCPU (x86)."""
        with explain_failure("KVM_CREATE_IRQCHIP"):
            fcntl.ioctl(self.fd, abi.KVM_CREATE_IRQCHIP, 0)

    def create_device(self, kind: int) -> int:
        """Make a device in the kernel, of which ``kind`` is the type; return its descriptor.

        Raises:
            OSError: KVM refuses; ENODEV if this host's KVM has no such device.
        """
        request = bytearray(abi.CREATE_DEVICE.pack(kind, 0, 0))
        fcntl.ioctl(self.fd, abi.KVM_CREATE_DEVICE, request)
        descriptor: int
        _, descriptor, _ = abi.CREATE_DEVICE.unpack(request)
        self.devices[kind] = descriptor
        return descriptor

    def check_device(self, kind: int) -> None:
        """Check that KVM has devices of type ``kind``.

        Raises:
            OSError: KVM refuses, mostly with ENODEV.
        """
        request = bytearray(abi.CREATE_DEVICE.pack(kind, 0, abi.CREATE_DEVICE_TEST))
        fcntl.ioctl(self.fd, abi.KVM_CREATE_DEVICE, request)

    def create_vcpu(self, number: int) -> Vcpu:
        """Make vCPU ``number``.

        Raises:
            HostError: KVM refuses.
        """
        with explain_failure("KVM_CREATE_VCPU"):
            fd = fcntl.ioctl(self.fd, abi.KVM_CREATE_VCPU, number)
        return Vcpu(fd, number, self._run_size, self._ring_page)

    def pulse_on(self, eventfd: int, line: int) -> None:
        """Let each write to ``eventfd`` raise an edge on interrupt line ``line``."""
        with explain_failure("KVM_IRQFD"):
            fcntl.ioctl(self.fd, abi.KVM_IRQFD, abi.IRQFD.pack(eventfd, line, 0, 0))

    def coalesce_port(self, port: int, length: int = 1) -> None:
        """Put writes to these I/O ports into the ring instead of ending KVM_RUN."""
        self._coalesce(port, length, 1)

    def coalesce_memory(self, address: int, length: int) -> None:
        """Put writes to these guest addresses into the ring instead of ending KVM_RUN."""
        self._coalesce(address, length, 0)

    def _coalesce(self, address: int, length: int, is_port: int) -> None:
        zone = abi.COALESCED_ZONE.pack(address, length, is_port)
        with explain_failure("KVM_REGISTER_COALESCED_MMIO"):
            fcntl.ioctl(self.fd, abi.KVM_REGISTER_COALESCED_MMIO, zone)

    def close(self) -> None:
        """Close the VM, which ends when its vCPUs are closed as well."""
        for descriptor in self.devices.values():
            os.close(descriptor)
        os.close(self.fd)
