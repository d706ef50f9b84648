"""What a kvm machine is made of and connected by, and what its VMM is told."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._model.errors import InputError
from slipway.machine.child import open_pair
from slipway.machine.kernel_arguments import command_line
from slipway.vmm import arch, control

if TYPE_CHECKING:
    from contextlib import ExitStack

    from slipway.machine.model import MachineSpec


@dataclass(frozen=True, slots=True)
class Shape:
    """What a machine and its snapshots have in common; ``memory_bytes`` is the guest's RAM."""

    memory_bytes: int
    cpus: int
    serial_port: bool


@dataclass(frozen=True, slots=True)
class Sockets:
    """Our ends of what leads to a VMM, and the descriptors of its ends."""

    channel: socket.socket
    agent: socket.socket
    console: socket.socket
    theirs: tuple[int, int, int]

    @classmethod
    def open(cls, ours: ExitStack, theirs: ExitStack) -> Sockets:
        """Make them; each end is closed by its stack.

        Raises:
            HostError: there is no descriptor left.
        """
        channel, channel_fd = open_pair(control.pair, ours, theirs)
        agent, agent_fd = open_pair(socket.socketpair, ours, theirs)
        console, console_fd = open_pair(socket.socketpair, ours, theirs)
        channel.setblocking(False)
        return cls(channel, agent, console, (channel_fd, agent_fd, console_fd))


def start_message(spec: MachineSpec) -> bytes:
    """What a VMM is told to boot.

    Raises:
        InputError: the command line is too long.
    """
    message = control.encode(
        control.START,
        kernel=os.fspath(spec.kernel),
        initramfs=os.fspath(spec.initrd),
        memory=str(spec.memory_bytes),
        command_line=command_line(spec, arch.of_host().KERNEL_ARGUMENTS),
        cpus=str(spec.cpus),
        virtio=str(int(not spec.serial_port)),
    )
    if len(message) >= control.MAX_MESSAGE:
        raise InputError("the kernel's command line is too long")
    return message


def seconds(microseconds: str) -> float:
    """As a VMM tells them; 0 where it tells nonsense."""
    if microseconds.isdecimal() and len(microseconds) < 16:
        return int(microseconds) / 1e6
    return 0.0
