"""Architectures of L1: the emulated board, its kernel, and the modules that it needs."""

from __future__ import annotations

from dataclasses import dataclass

from slipway_initramfs.architectures import machine_architecture


@dataclass(frozen=True, slots=True)
class LabArchitecture:
    """Debian's ``name`` of an architecture, and how QEMU emulates a processor of it with KVM.

    ``kernel_package`` is the generic kernel: the cloud kernel, which guests boot, has no 9p.
    ``modules`` are inserted in this order; their dependencies come by themselves.
    """

    name: str
    program: str
    board: str
    processor: str
    kernel_package: str
    kernel_arguments: str
    modules: tuple[str, ...]

    @property
    def is_native(self) -> bool:
        """Check whether L1 runs the programs of this host."""
        return self.name == machine_architecture()


_COMMON_ARGUMENTS = (
    "panic=-1 mitigations=off init_on_alloc=0 rodata=off cryptomgr.notests random.trust_cpu=on"
    " swiotlb=noforce"
)
_COMMON_MODULES = ("virtio_mmio", "virtio_console", "9pnet_virtio", "9p")

ARCHITECTURES = {
    "amd64": LabArchitecture(
        name="amd64",
        program="qemu-system-x86_64",
        board="microvm,acpi=on,pit=off,pic=off,rtc=on,x-option-roms=off",
        # erms, fsrm and smap: as for the machine that Slipway itself starts. Five levels of page
        # tables would lengthen every walk through two sets of them.
        processor="max,-erms,-fsrm,-smap,-la57",
        kernel_package="linux-image-amd64",
        kernel_arguments=f"console=ttyS0 reboot=t tsc=reliable {_COMMON_ARGUMENTS}",
        # tun and veth: for tests with a network of their own beyond a gateway.
        modules=(*_COMMON_MODULES, "kvm", "kvm_amd", "tun", "veth"),
    ),
    "arm64": LabArchitecture(
        name="arm64",
        program="qemu-system-aarch64",
        board="virt,virtualization=on,gic-version=3",
        # A server's processor with EL2 and VHE. That of "max" authenticates pointers by a slow
        # cipher: its L1 takes four times as long to boot.
        processor="neoverse-n1",
        kernel_package="linux-image-arm64",
        # KVM is a part of this kernel. Where kernel and programs have page tables of their own,
        # each call of the kernel exchanges them.
        kernel_arguments=f"console=ttyAMA0 nokaslr kpti=off {_COMMON_ARGUMENTS}",
        modules=_COMMON_MODULES,
    ),
}
