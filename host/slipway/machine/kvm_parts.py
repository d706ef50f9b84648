"""Sockets, command and first message of a VMM."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._util.errors import InputError
from slipway.machine.child import open_pair
from slipway.machine.kernel_arguments import build_command_line
from slipway.machine.model import PortKind
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.boot_template import encode_template
from slipway.vmm.process import control
from slipway.vmm.spec import VmConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from slipway.machine.model import MachineSpec
    from slipway.vmm.spec import BootTemplate


@dataclass(frozen=True, slots=True)
class VmmSockets:
    """Our ends of a VMM's sockets, and the descriptors of its ends (``theirs``)."""

    channel: socket.socket
    console: socket.socket
    agents: Mapping[PortKind, socket.socket]
    theirs: tuple[int, ...]

    @classmethod
    def open(cls, port: str, ours: ExitStack, theirs: ExitStack) -> VmmSockets:
        """Make the sockets; each end is closed by its stack. The agent has one for each device.

        Raises:
            HostError: this process has too many descriptors.
        """
        channel, channel_fd = open_pair(control.create_pair, ours, theirs)
        console, console_fd = open_pair(socket.socketpair, ours, theirs)
        channel.setblocking(False)
        pairs = {
            kind: open_pair(socket.socketpair, ours, theirs) for kind in PortKind(port).devices
        }
        agents = {kind: end for kind, (end, _) in pairs.items()}
        agent_fds = (fd for _, fd in pairs.values())
        return cls(channel, console, agents, (channel_fd, console_fd, *agent_fds))


def build_config(spec: MachineSpec) -> VmConfig:
    """Return the configuration of the machine of ``spec``."""
    network = spec.network is not None
    return VmConfig(spec.memory_bytes, spec.cpus, spec.port.value, network)


def encode_start_message(spec: MachineSpec, template: BootTemplate | None = None) -> bytes:
    """Return the message that tells a VMM which guest to boot, from ``template`` if given.

    Raises:
        InputError: the command line is too long.
    """
    # The initramfs of a template is read-only: the kernel must not use its memory for other data.
    keeping = " retain_initrd" if template is not None else ""
    own = find_architecture().KERNEL_ARGUMENTS + keeping
    message = control.encode(
        control.START,
        kernel=os.fspath(spec.kernel),
        initramfs=os.fspath(spec.initrd),
        memory=str(spec.memory_bytes),
        command_line=build_command_line(spec, own),
        cpus=str(spec.cpus),
        port=spec.port.value,
        network=str(int(spec.network is not None)),
        template="" if template is None else encode_template(template),
    )
    if len(message) >= control.MAX_MESSAGE:
        raise InputError("the kernel's command line is too long")
    return message


def parse_seconds(microseconds: str) -> float:
    """Return microseconds of a VMM's message in seconds; 0 for invalid text."""
    if microseconds.isdecimal() and len(microseconds) < 16:
        return int(microseconds) / 1e6
    return 0.0
