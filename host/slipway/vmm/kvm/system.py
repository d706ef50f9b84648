"""The device /dev/kvm."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack

from slipway._util.errors import HostError
from slipway.vmm.kvm import abi
from slipway.vmm.kvm.failure import explain_failure
from slipway.vmm.kvm.vm import Vm

# How a host gets the device, by the name of its architecture in uname(2).
_SOURCES = {
    "x86_64": "Turn virtualisation on in the firmware and load kvm-intel or kvm-amd; or use",
    "aarch64": "A kernel with CONFIG_KVM that the firmware starts at EL2 has it; or use",
}


class Kvm:
    """Open /dev/kvm; owner of its descriptor."""

    __slots__ = ("_run_size", "fd")

    def __init__(self, path: str = abi.DEVICE) -> None:
        """Open ``path`` and check its version and capabilities.

        Raises:
            HostError: the device is missing, not permitted, or lacks a capability.
        """
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            message, hint = explain_open_error(error, path)
            raise HostError(message, hint) from error
        with ExitStack() as undo:
            undo.callback(self.close)
            self._check()
            with explain_failure("KVM_GET_VCPU_MMAP_SIZE"):
                self._run_size = fcntl.ioctl(self.fd, abi.KVM_GET_VCPU_MMAP_SIZE, 0)
            undo.pop_all()

    def _check(self) -> None:
        with explain_failure("KVM_GET_API_VERSION"):
            version = fcntl.ioctl(self.fd, abi.KVM_GET_API_VERSION, 0)
        if version != abi.API_VERSION:
            raise HostError(
                f"KVM's interface has version {version}, and {abi.API_VERSION} is needed",
                "Use --machine qemu, or a kernel of Linux 4.20 or later.",
            )
        needed = abi.NEEDED | abi.NEEDED_BY_MACHINE.get(os.uname().machine, {})
        for capability, purpose in needed.items():
            if not self.get_capability(capability):
                raise HostError(
                    f"this host's KVM lacks KVM_CAP_{capability.name} ({purpose})",
                    "Use --machine qemu, or a kernel of Linux 4.20 or later.",
                )

    def get_capability(self, capability: abi.Capability) -> int:
        """Return 0 for a missing capability, else 1 or its number."""
        with explain_failure("KVM_CHECK_EXTENSION"):
            return fcntl.ioctl(self.fd, abi.KVM_CHECK_EXTENSION, int(capability))

    def create_vm(self, kind: int = 0) -> Vm:
        """Make a VM; ``kind`` is the architecture's machine type.

        Raises:
            HostError: KVM refuses.
        """
        with explain_failure("KVM_CREATE_VM"):
            fd = fcntl.ioctl(self.fd, abi.KVM_CREATE_VM, kind)
        ring_page = self.get_capability(abi.Capability.COALESCED_MMIO)
        return Vm(fd, self._run_size, ring_page)

    def close(self) -> None:
        """Close the device; its VMs continue."""
        os.close(self.fd)


def explain_open_error(error: OSError, path: str = abi.DEVICE) -> tuple[str, str]:
    """Return message and hint for ``error``, raised by an attempt to open ``path``."""
    if error.errno in {errno.ENOENT, errno.ENXIO, errno.ENODEV}:
        return (
            f"no {path}: no virtualisation here, or the kvm module is not loaded",
            f"{_SOURCES.get(os.uname().machine, 'Use')} --machine qemu.",
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return (
            f"{path} may not be opened",
            "Join its group: usermod -aG kvm $USER, then log in again; or use --machine qemu.",
        )
    return f"{path} cannot be opened: {error.strerror}", "Use --machine qemu."
