"""Machine of the hypervisor ``qemu``: a process of QEMU.

QEMU emulates the processor (TCG); it runs the same guests as KVM does, slower. Its boards and
processors: qemu_targets.py. The reasons for its options: docs/decisions/qemu-options.md. Clones of
snapshots: qemu_template.py.
"""

from __future__ import annotations

import hashlib
import os
import resource
import socket
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway.machine import memory_files, migration
from slipway.machine.child import ChildMachine, open_pair
from slipway.machine.console import Console
from slipway.machine.gateway.addresses import GUEST_MAC, MTU
from slipway.machine.host_limits import HostLimits, HostNeed
from slipway.machine.kernel_arguments import COMMON, build_command_line
from slipway.machine.model import PortKind, Snapshot
from slipway.machine.process import ChildProcess
from slipway.machine.qmp import Monitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from slipway.machine.model import Hypervisor, MachineSpec
    from slipway.machine.qemu_targets import QemuTarget

# MiB of translated code; the default is up to 1 GiB. A boot fills 56, a start of node 51 more, and
# a full cache is discarded as a whole.
CACHE_MIB = 256
ACCELERATOR = f"tcg,tb-size={CACHE_MIB}"
# A process that will be forked has a filter of ours for the start of processes.
FORKED_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,resourcecontrol=deny"
SANDBOX = f"{FORKED_SANDBOX},spawn=deny"

# Linux refuses a network device that has no control queue, and offers features that need one.
NO_CONTROL_QUEUE = (
    "ctrl_vq=off,ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off,"
    "ctrl_guest_offloads=off,guest_announce=off,mq=off"
)

# QEMU rounds a machine's memory up to a multiple of this, in bytes, but not its backend.
RAM_STEP = 8192


def build_kernel_command_line(spec: MachineSpec, target: QemuTarget, khz: int) -> str:
    """Return the kernel's command line, with the rate of a TSC, which guests cannot measure."""
    own = target.kernel_arguments + (f" tsc_early_khz={khz}" if target.has_tsc else "")
    return build_command_line(spec, own, console=target.console_name, serial=target.serial_name)


@dataclass(frozen=True, slots=True)
class QemuSockets:
    """QEMU's ends of its sockets, which it inherits: without paths, nothing is left to clean up."""

    agents: Mapping[PortKind, int]  # by device of the agent's port
    console: int
    monitor: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """The descriptors, in an order that depends on the port only."""
        return (*self.agents.values(), self.console, self.monitor)


@dataclass(frozen=True, slots=True)
class QemuEnds:
    """Our ends of a QEMU's sockets, and the descriptors of its ends (``theirs``)."""

    agents: Mapping[PortKind, socket.socket]
    console: socket.socket
    monitor: socket.socket
    theirs: QemuSockets

    @classmethod
    def open(cls, port: PortKind, ours: AsyncExitStack, theirs: ExitStack) -> QemuEnds:
        """Make the sockets; each end is closed by its stack.

        Raises:
            HostError: this process has too many descriptors.
        """
        pairs = {kind: open_pair(socket.socketpair, ours, theirs) for kind in port.devices}
        console, console_fd = open_pair(socket.socketpair, ours, theirs)
        monitor, monitor_fd = open_pair(socket.socketpair, ours, theirs)
        agents = {kind: number for kind, (_, number) in pairs.items()}
        return cls(
            {kind: end for kind, (end, _) in pairs.items()},
            console,
            monitor,
            QemuSockets(agents, console_fd, monitor_fd),
        )


@dataclass(frozen=True, slots=True)
class Board:
    """Hardware that a machine and its clones share.

    The arguments for a ``network`` are those of :func:`build_network_arguments`.
    """

    target: QemuTarget
    memory_bytes: int
    cpus: int
    port: PortKind
    network: bool = False

    def measure_need(self, hypervisor: Hypervisor) -> HostNeed:
        """Return what a clone on this board needs of the host."""
        return HostNeed.of_guest(hypervisor, self.memory_bytes, self.cpus, network=self.network)

    def build_arguments(self, sockets: QemuSockets, ram: str, sandbox: str = SANDBOX) -> list[str]:
        """Return QEMU's arguments; ``ram`` is the memory backend."""
        return [
            *["-M", f"{self.target.board},memory-backend=ram", "-cpu", self.target.cpu],
            *["-accel", ACCELERATOR],
            *["-smp", str(self.cpus), "-m", f"{self.memory_bytes}B"],
            *["-object", f"{ram},id=ram,size={self.memory_bytes}"],
            *["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
            *["-sandbox", sandbox],
            *["-chardev", f"socket,id=console,fd={sockets.console}", "-serial", "chardev:console"],
            *self.target.build_port_arguments(sockets.agents),
            *["-chardev", f"socket,id=monitor,fd={sockets.monitor}"],
            *["-mon", "chardev=monitor,mode=control"],
        ]


def build_network_arguments(link: int) -> list[str]:
    """Return QEMU's arguments for an interface whose frames are the packets of ``link``."""
    device = f"virtio-net-device,netdev=net,mac={GUEST_MAC.hex(':')},host_mtu={MTU}"
    return [
        *["-netdev", f"dgram,id=net,local.type=fd,local.str={link}"],
        *["-device", f"{device},{NO_CONTROL_QUEUE}"],
    ]


def build_file_ram(descriptor: int, *, share: bool) -> str:
    """Return a memory backend: the file ``descriptor`` itself if ``share``, else a private copy."""
    path = f"/proc/self/fd/{descriptor}"
    return f"memory-backend-file,mem-path={path},share={'on' if share else 'off'}"


def build_boot_arguments(spec: MachineSpec, target: QemuTarget, khz: int) -> list[str]:
    """Return QEMU's arguments for kernel and initramfs."""
    return [
        *["-kernel", str(spec.kernel), "-initrd", str(spec.initrd)],
        *["-append", build_kernel_command_line(spec, target, khz)],
    ]


def compute_fingerprint(target: QemuTarget) -> str:
    """Return a digest of QEMU for ``target``, its options and this host's processor.

    Raises:
        HostError: QEMU is not installed, or cannot be read.
    """
    path = target.find_program()
    try:
        status = Path(path).stat()
        cpu = Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
    except OSError as error:
        raise HostError(f"{error.filename} cannot be read: {error.strerror}") from None
    boards = [
        Board(target, 0, 0, port).build_arguments(
            QemuSockets(dict.fromkeys(port.devices, 0), 0, 0), "ram"
        )
        for port in PortKind
    ]
    boards.append(build_network_arguments(0))
    parts = (
        *(path, status.st_size, status.st_mtime_ns, boards, COMMON, target.kernel_arguments),
        *sorted({line for line in cpu if line.startswith("model name")}),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _limit_file_size(pid: int, size: int) -> None:
    """Limit the files that process ``pid`` writes, such as a state, to ``size`` bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, limit))


@dataclass(frozen=True, slots=True)
class QemuCommand:
    """Command of a QEMU: its board, memory backend, further arguments and inherited files."""

    board: Board
    ram: str
    rest: Sequence[str]
    files: tuple[int, ...] = ()
    sandbox: str = SANDBOX

    def build(self, sockets: QemuSockets) -> list[str]:
        """Return the command of a QEMU with ``sockets``.

        Raises:
            HostError: QEMU is not installed.
        """
        arguments = self.board.build_arguments(sockets, self.ram, self.sandbox)
        return [self.board.target.find_program(), *arguments, *self.rest]


async def start_child(command: list[str], inherited: tuple[int, ...]) -> ChildProcess:
    """Start a QEMU as a child of this process.

    Raises:
        HostError: the host has no room for a process.
    """
    return ChildProcess.start(command, pass_fds=inherited)


class QemuMachine(ChildMachine):
    """Process of QEMU, and the socket to its monitor."""

    def __init__(
        self,
        process: ChildProcess,
        console: Console,
        ends: QemuEnds,
        board: Board,
        hypervisor: Hypervisor,
        limits: HostLimits,
        *,
        is_fork: bool = False,
    ) -> None:
        """Take over all but the hypervisor."""
        super().__init__(process, console, hypervisor, board.port, limits)
        self.monitor = Monitor(ends.monitor, is_negotiated=is_fork)
        self.board = board
        # QEMU's ends of its sockets, as numbers there.
        self.sockets = ends.theirs
        # Descriptor of the RAM's file, if that outlives the machine.
        self._memory: int | None = None

    @classmethod
    async def launch(
        cls,
        command: QemuCommand,
        *,
        hypervisor: Hypervisor,
        need: HostNeed | None = None,
        boot_log: bool = False,
        start: Callable[[list[str], tuple[int, ...]], Awaitable[ChildProcess]] = start_child,
    ) -> QemuMachine:
        """Start QEMU by ``start``, which takes its command and the descriptors that it inherits.

        ``need`` is by default that of a clone.

        Raises:
            HostError: QEMU is missing, or the host has no room for a process.
        """
        board = command.board
        limits = HostLimits.open(need or board.measure_need(hypervisor))
        async with AsyncExitStack() as undo:
            undo.push_async_callback(limits.close)
            with ExitStack() as theirs:
                ends = QemuEnds.open(board.port, undo, theirs)
                inherited = (*ends.theirs.numbers, *command.files)
                process = await start(command.build(ends.theirs), inherited)
            undo.push_async_callback(process.kill)
            _limit_file_size(process.pid, board.memory_bytes + migration.STATE_BYTES)
            await limits.adopt(process.pid)
            machine = cls(process, Console(echo=boot_log), ends, board, hypervisor, limits)
            undo.push_async_callback(machine.stop)
            await machine.connect(ends.agents, ends.console)
            undo.pop_all()
        return machine

    @classmethod
    async def adopt(
        cls, process: ChildProcess, ends: QemuEnds, board: Board, hypervisor: Hypervisor
    ) -> QemuMachine:
        """Return the machine of a fork of a stopped QEMU, and let its guest run.

        The caller closes ``ends`` after an error, and ends the process.

        Raises:
            HostError: QEMU does not answer.
        """
        async with AsyncExitStack() as undo:
            limits = HostLimits.open(board.measure_need(hypervisor))
            machine = cls(process, Console(), ends, board, hypervisor, limits, is_fork=True)
            undo.push_async_callback(machine.stop)
            await limits.adopt(process.pid)
            await machine.connect(ends.agents, ends.console)
            await machine.monitor.execute("cont")
            undo.pop_all()
        return machine

    @property
    def has_network(self) -> bool:
        """True if the machine has a network interface."""
        return self.board.network

    def keep_memory(self, memory: int) -> None:
        """Take over the descriptor ``memory`` of the file with the RAM, for the snapshot."""
        self._memory = memory

    async def snapshot(self) -> Snapshot:
        """Stop the guest and return a snapshot; see :meth:`Machine.snapshot`.

        The memory of a template is sealed, and a sealed file must not be mapped writable: the
        process of a template is killed. The memory of another machine is part of the state.
        """
        with ExitStack() as kept:
            state = memory_files.create("slipway-state")
            kept.callback(os.close, state)
            if self._memory is None and self.limits is not None:
                self.limits.allow_copy(self.board.memory_bytes)
            await migration.save(self.monitor, state)
            memory, self._memory = self._memory, None
            if memory is None:
                memory = memory_files.create("slipway-memory", self.board.memory_bytes)
                kept.callback(os.close, memory)
            else:
                kept.callback(os.close, memory)
                await self._process.kill()
            memory_files.seal(memory)
            memory_files.seal(state)
            kept.pop_all()
        board = self.board
        return Snapshot(
            self.hypervisor.name,
            self.hypervisor.architecture,
            board.memory_bytes,
            board.cpus,
            board.port,
            memory,
            state,
            board.network,
            self.port if board.port is PortKind.AUTO else None,
        )

    async def resume(self) -> None:
        """Continue after a snapshot; see :meth:`Machine.resume`."""
        await self.monitor.execute("cont")

    async def record_working_set(self, snapshot: Snapshot) -> Snapshot:
        """Return ``snapshot`` unchanged; see :meth:`Machine.record_working_set`."""
        return snapshot

    async def read_exit_report(self) -> str:
        """Return the refusal of QEMU's monitor, or its stderr; see :class:`Machine`."""
        return self.monitor.complaint or await super().read_exit_report()

    async def stop(self) -> None:
        """Kill QEMU and close its sockets."""
        await self._process.kill()
        self.monitor.close()
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None
        await super().stop()
