"""The qemu machine: QEMU's microvm board under software emulation (TCG).

It needs nothing of the host but QEMU and runs the same guests as KVM does, slower. Why each option
is as it is: docs/decisions/qemu-options.md.
"""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._errors import HostError
from slipway.machine.child import ChildMachine, open_pair
from slipway.machine.console import Console
from slipway.machine.kernel_arguments import command_line
from slipway.machine.process import Process
from slipway.machine.tsc import tsc_khz

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.machine.model import MachineSpec

PROGRAM = "qemu-system-x86_64"
INSTALL_HINT = "apt-get install qemu-system-x86"

# acpi announces the virtio devices; a timer interrupt comes from the APIC, hence no PIT and no PIC.
# The board's option ROMs would only look for disks.
BOARD = "microvm,acpi=on,pit=off,pic=off,rtc=on,x-option-roms=off"
# The cache of translated code may otherwise grow to 1 GiB a machine.
ACCELERATOR = "tcg,tb-size=64"
# Without these the guest's copies use 8-byte moves, which TCG translates well, where `rep movsb`
# costs it a loop turn a byte; and supervisor access prevention would end a translated block twice
# for every copy from or to a program.
CPU = "max,-erms,-fsrm,-smap"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

VIRTIO_PORT = (
    *("-device", "virtio-serial-device,max_ports=2"),
    *("-device", "virtserialport,chardev=agent,name=agent,nr=1"),
)
SERIAL_PORT = ("-device", "isa-serial,index=1,chardev=agent")

# A triple fault is what ends this board.
REBOOT = "reboot=t"


def kernel_command_line(spec: MachineSpec, khz: int) -> str:
    """The whole command line, with the clock in it that TCG's guests cannot measure."""
    # tsc=reliable: there is no other clock to watch the TSC with, and watching it takes a second.
    return command_line(spec, f"{REBOOT} tsc_early_khz={khz} tsc=reliable")


def arguments(spec: MachineSpec, khz: int, *, agent_fd: int, console_fd: int) -> list[str]:
    """QEMU's argument vector. The sockets are inherited, so that there is no path to clean up."""
    return [
        *["-M", BOARD, "-accel", ACCELERATOR, "-cpu", CPU, "-smp", str(spec.cpus)],
        *["-m", f"{spec.memory_bytes}B"],
        *["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        *["-sandbox", SANDBOX],
        *["-kernel", str(spec.kernel), "-initrd", str(spec.initrd)],
        *["-append", kernel_command_line(spec, khz)],
        *["-chardev", f"socket,id=console,fd={console_fd}", "-serial", "chardev:console"],
        *["-chardev", f"socket,id=agent,fd={agent_fd}"],
        *(SERIAL_PORT if spec.serial_port else VIRTIO_PORT),
    ]


def _program() -> str:
    program = shutil.which(PROGRAM)
    if program is None:
        raise HostError("QEMU is not installed", f"Install it: {INSTALL_HINT}")
    return program


class QemuMachine(ChildMachine):
    """QEMU's process."""

    name = "qemu"

    @classmethod
    def check(cls, state: Path) -> None:
        """Check that QEMU is there; see :meth:`slipway.machine.Machine.check`."""
        _program()

    @classmethod
    async def start(cls, spec: MachineSpec) -> QemuMachine:
        """Start QEMU; see :meth:`slipway.machine.Machine.start`."""
        program = _program()
        try:
            khz = tsc_khz(spec.state / "tsc-khz")
        except OSError as error:
            raise HostError(
                f"the rate of this host's TSC cannot be measured: {error.strerror}",
                "Measuring takes a page of memory that is executable; allow it to this process.",
            ) from None
        with ExitStack() as ours:
            with ExitStack() as theirs:
                agent, agent_fd = open_pair(socket.socketpair, ours, theirs)
                console, console_fd = open_pair(socket.socketpair, ours, theirs)
                argv = [program, *arguments(spec, khz, agent_fd=agent_fd, console_fd=console_fd)]
                process = Process.start(argv, pass_fds=(agent_fd, console_fd))
            machine = cls(process, Console(echo=spec.boot_log))
            try:
                await machine.connect(agent, console)
            except (
                BaseException
            ):  # cancelled, most likely, and nobody else knows of the process yet
                await machine.stop()
                raise
            ours.pop_all()
        return machine
