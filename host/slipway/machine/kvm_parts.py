"""What a kvm machine is made of and connected by, and what its VMM is told."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._model.errors import InputError
from slipway.machine.child import open_pair
from slipway.machine.kernel_arguments import build_command_line
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.process import control

if TYPE_CHECKING:
    from contextlib import ExitStack

    from slipway.machine.model import MachineSpec

# -I and -S: modules of the user and of the site are not imported, hence the path is an argument.
_SET_PATH = "import sys; sys.path[:0] = sys.argv[1:2];"
_PACKAGES = str(Path(__file__).parents[2])


@dataclass(frozen=True, slots=True)
class VmmSockets:
    """Our ends of what leads to a VMM, and the descriptors of its ends."""

    channel: socket.socket
    agent: socket.socket
    console: socket.socket
    theirs: tuple[int, int, int]

    @classmethod
    def open(cls, ours: ExitStack, theirs: ExitStack) -> VmmSockets:
        """Make them; each end is closed by its stack.

        Raises:
            HostError: there is no descriptor left.
        """
        channel, channel_fd = open_pair(control.create_pair, ours, theirs)
        agent, agent_fd = open_pair(socket.socketpair, ours, theirs)
        console, console_fd = open_pair(socket.socketpair, ours, theirs)
        channel.setblocking(False)
        return cls(channel, agent, console, (channel_fd, agent_fd, console_fd))


def build_vmm_command(module: str, descriptors: tuple[int, ...]) -> list[str]:
    """Return the command of a process that runs ``main`` of ``module``, below slipway.vmm.process.

    ``descriptors`` are inherited, and told to it behind this process's id.
    """
    program = f"{_SET_PATH} from slipway.vmm.process.{module} import main; main()"
    numbers = map(str, (os.getpid(), *descriptors))
    return [sys.executable, "-IS", "-c", program, _PACKAGES, *numbers]


def encode_start_message(spec: MachineSpec) -> bytes:
    """What a VMM is told to boot.

    Raises:
        InputError: the command line is too long.
    """
    message = control.encode(
        control.START,
        kernel=os.fspath(spec.kernel),
        initramfs=os.fspath(spec.initrd),
        memory=str(spec.memory_bytes),
        command_line=build_command_line(spec, find_architecture().KERNEL_ARGUMENTS),
        cpus=str(spec.cpus),
        virtio=str(int(not spec.serial_port)),
    )
    if len(message) >= control.MAX_MESSAGE:
        raise InputError("the kernel's command line is too long")
    return message


def parse_seconds(microseconds: str) -> float:
    """As a VMM tells them; 0 where it tells nonsense."""
    if microseconds.isdecimal() and len(microseconds) < 16:
        return int(microseconds) / 1e6
    return 0.0
