"""Targets of QEMU: the architectures that it emulates, each with its program and board.

A target is the architecture of the guest, as in QEMU's manual; the host's may be another. The
reasons for the options: docs/decisions/qemu-options.md.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway.machine.model import PortKind
from slipway_initramfs.architectures import machine_architecture

if TYPE_CHECKING:
    from collections.abc import Mapping

# Translated code is found by its address: with ASLR each start of a position-independent program
# would be translated again. ASLR protects nothing here, see docs/threat-model.md.
SAME_ADDRESSES = "norandmaps"

VIRTIO_PORT = (
    *("-device", "virtio-serial-device,max_ports=2"),
    *("-device", "virtserialport,chardev=virtio,name=agent,nr=1"),
)


@dataclass(frozen=True, slots=True)
class QemuTarget:
    """Program, board and processor of QEMU for guests of one ``architecture`` (Debian's name).

    ``package`` is Debian's package with ``program``. ``serial_port`` are QEMU's arguments for the
    agent's UART, which the guest's kernel calls ``serial_name``; ``console_name`` is that for the
    kernel's messages. ``kernel_arguments`` are those that the board needs. ``has_tsc``: the guest
    reads a TSC, and its kernel has to be given the rate. ``keeps_boot_files``: QEMU reads kernel
    and initramfs into memory of its own, and keeps them for a reset.
    """

    architecture: str
    program: str
    package: str
    board: str
    cpu: str
    serial_port: tuple[str, ...]
    serial_name: str
    console_name: str
    kernel_arguments: str
    has_tsc: bool
    keeps_boot_files: bool

    @property
    def is_native(self) -> bool:
        """True if the architecture is that of this host."""
        return self.architecture == machine_architecture()

    def build_port_arguments(self, sockets: Mapping[PortKind, int]) -> list[str]:
        """Return QEMU's arguments for the devices of ``sockets``, which QEMU inherits."""
        devices = {PortKind.VIRTIO: VIRTIO_PORT, PortKind.SERIAL: self.serial_port}
        arguments = []
        for kind, socket in sockets.items():
            arguments += ["-chardev", f"socket,id={kind.value},fd={socket}", *devices[kind]]
        return arguments

    def find_program(self) -> str:
        """Return QEMU's path.

        Raises:
            HostError: QEMU is not installed.
        """
        found = shutil.which(self.program)
        if found is None:
            from slipway._util.install_command import format_install_command

            name = "QEMU" if self.is_native else f"QEMU for {self.architecture}"
            raise HostError(
                f"{name} is not installed", f"Install it: {format_install_command(self.package)}"
            )
        return found


TARGETS: Mapping[str, QemuTarget] = {
    "amd64": QemuTarget(
        architecture="amd64",
        program="qemu-system-x86_64",
        package="qemu-system-x86",
        # acpi announces the virtio devices. The timer interrupt comes from the APIC, hence no PIT
        # and no PIC. The board's option ROMs only look for disks.
        board="microvm,acpi=on,pit=off,pic=off,rtc=on,x-option-roms=off",
        # Without erms and fsrm, a guest copies by 8-byte moves, which TCG translates well; `rep
        # movsb` takes a turn of a loop for each byte. With smap, each copy from or to a program
        # ends two translated blocks. Without rdrand and rdseed, no program gets numbers from QEMU,
        # whose forks would repeat them; the kernel's come from the host with each Hello.
        cpu="max,-erms,-fsrm,-smap,-rdrand,-rdseed",
        serial_port=("-device", "isa-serial,index=1,chardev=serial"),
        serial_name="ttyS1",
        console_name="ttyS0",
        # A triple fault ends this board. tsc=reliable: to compare the TSC with another clock takes
        # a second, and there is no other clock.
        kernel_arguments=f"reboot=t {SAME_ADDRESSES} tsc=reliable",
        has_tsc=True,
        # They are mapped files, which the guest reads through fw_cfg.
        keeps_boot_files=False,
    ),
    "arm64": QemuTarget(
        architecture="arm64",
        program="qemu-system-aarch64",
        package="qemu-system-arm",
        # The version of the GIC whose registers are those of the processor: an access to the
        # memory of a device costs TCG more.
        board="virt,gic-version=3",
        # A processor of servers. That of `max` authenticates pointers, which takes TCG a third more
        # time even with `pauth-impdef=on`.
        cpu="neoverse-n1",
        serial_port=("-device", "pci-serial,chardev=serial"),
        serial_name="ttyS0",
        console_name="ttyAMA0",
        # A random place of the kernel is another form of ASLR. Without cma=0, the kernel reserves
        # 64 MiB for devices, and has too little for a machine of an image's minimum memory.
        kernel_arguments=f"{SAME_ADDRESSES} nokaslr cma=0",
        has_tsc=False,
        keeps_boot_files=True,
    ),
}


def find_target(architecture: str = "") -> QemuTarget:
    """Return the target for ``architecture``, by default that of this host.

    Raises:
        HostError: QEMU is not used for this architecture.
    """
    name = architecture or machine_architecture()
    target = TARGETS.get(name)
    if target is None:
        raise HostError(f"no machine for the architecture {name!r}")
    return target
