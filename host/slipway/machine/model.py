"""Protocols of hypervisors, machines and templates, and the values that they exchange."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from slipway._util.errors import HostError
from slipway._util.text import to_plain_line

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from slipway._model.host_use import HostUse
    from slipway.machine.console import Console


class PortKind(StrEnum):
    """Port of the agent: a virtio console, the second UART, or a connection over the network.

    ``AUTO`` is a machine with console and UART, of which the agent takes the better.
    """

    AUTO = "auto"
    VIRTIO = "virtio"
    SERIAL = "serial"
    TCP = "tcp"

    @property
    def devices(self) -> tuple[PortKind, ...]:
        """The devices of the machine that the agent may take, the better first; none for TCP."""
        if self is PortKind.AUTO:
            return PortKind.VIRTIO, PortKind.SERIAL
        return () if self is PortKind.TCP else (self,)


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """Kernel, memory and processors of a machine that boots.

    ``memory_bytes`` is the guest's RAM. The ``port`` ``SERIAL`` gives the agent the second UART
    even where a faster port exists; ``AUTO`` is for kernels whose drivers we do not know. A
    ``template`` is started to be snapshotted once, and never continues after that.

    With ``network`` the machine has a network interface. It is the machine's end of a link, a
    socket (AF_UNIX, SOCK_SEQPACKET) with one Ethernet frame a packet. The machine's process
    inherits a copy; the caller closes its own after the start, also after one that failed.

    The port ``TCP`` takes a ``network``; see :meth:`Machine.use_stream`.
    """

    kernel: Path
    initrd: Path
    kernel_arguments: str
    memory_bytes: int
    cpus: int = 1
    port: PortKind = PortKind.VIRTIO
    boot_log: bool = False
    template: bool = False
    network: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a stopped machine, from which clones start.

    ``memory`` and ``state`` are descriptors of regular files that do not change any more; the
    owner of the snapshot closes both. ``memory`` is the guest's RAM (``memory_bytes`` long, with
    holes for zeros), ``state`` the rest, and the RAM that differs from ``memory``. ``hypervisor``
    is the name of the hypervisor that alone can read ``state``, ``architecture`` that of the
    guest's processor, as Debian calls it. ``network``: the machine has a network interface.
    ``agent_port`` is the port that the agent uses, where ``port`` is ``AUTO``.
    """

    hypervisor: str
    architecture: str
    memory_bytes: int
    cpus: int
    port: PortKind
    memory: int
    state: int
    network: bool = False
    agent_port: PortKind | None = None

    def close(self) -> None:
        """Close both files. Clones that exist keep what they need of them."""
        for descriptor in (self.memory, self.state):
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_origin(self, hypervisor: Hypervisor) -> None:
        """Check that the machine was one of ``hypervisor``.

        Raises:
            HostError: it was of another hypervisor, or of another architecture.
        """
        for kind, found, wanted in (
            ("hypervisor", self.hypervisor, hypervisor.name),
            ("architecture", self.architecture, hypervisor.architecture),
        ):
            if found != wanted:
                raise HostError(
                    f"a snapshot of the {kind} {to_plain_line(found)!r:.40} is not for {wanted}"
                )

    def duplicate(self) -> Snapshot:
        """Return another owner's descriptors of the same files.

        Raises:
            HostError: this process has too many descriptors.
        """
        with ExitStack() as undo:
            try:
                memory = os.dup(self.memory)
                undo.callback(os.close, memory)
                copy = replace(self, memory=memory, state=os.dup(self.state))
            except OSError as error:
                raise HostError(
                    f"a snapshot cannot be opened again: {error.strerror}",
                    "Raise the limit of open files (ulimit -n).",
                ) from None
            undo.pop_all()
        return copy


@dataclass(frozen=True, slots=True)
class Transport:
    """An ordered byte stream to the agent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Hypervisor(Protocol):
    """Hypervisor of this host, chosen once for a run: starts machines and clones snapshots."""

    name: str
    """``kvm`` or ``qemu``."""
    architecture: str
    """Architecture of its guests, as Debian calls it: ``amd64`` or ``arm64``."""
    is_emulated: bool
    """True if guest code is translated in software, and is slow the first time that it runs."""
    declares_checksums: bool
    """True if its network device declares checksums valid, so that a gateway need not sum."""
    overhead: int
    """Upper bound on the memory of a machine beside its guest's RAM, in bytes."""
    keeps_boot_files: bool
    """True if a machine that boots also keeps a copy of kernel and initramfs."""
    idle_memory: int
    """Upper bound on the unshared memory of a clone that waits for a job, in bytes."""
    reason: str
    """Reason why this hypervisor was chosen, for a result's provenance."""

    def check(self) -> None:
        """Check that this host can run such machines.

        Raises:
            HostError: this host cannot run them.
        """
        ...

    async def start(self, spec: MachineSpec) -> Machine:
        """Start to boot a machine, and return as soon as its process exists.

        Raises:
            HostError: this host cannot run the machine.
            InputError: the kernel is invalid, or does not fit into the memory.
        """
        ...

    def create_booter(self, reserve: MemoryReserve | None = None) -> Booter | None:
        """Return a booter for many starts; None if :meth:`start` is as fast.

        ``reserve`` counts the memory that the booter keeps between starts.
        """
        ...

    async def open_template(self, snapshot: Snapshot) -> Template:
        """Return a template of ``snapshot``, which it takes over, even if it raises.

        Raises:
            HostError: the snapshot cannot be used, or this host cannot run such machines.
        """
        ...

    def fingerprint(self) -> str:
        """Return a digest of all on this host that its snapshots depend on.

        A snapshot that was made under another fingerprint cannot be used.

        Raises:
            HostError: this host cannot run such machines.
        """
        ...


class MemoryReserve(Protocol):
    """Account of memory that is kept for speed alone, and given up for machines."""

    def reserve(self, memory: int) -> bool:
        """Reserve ``memory`` bytes; return False if they do not fit."""
        ...

    def free(self, memory: int) -> None:
        """Release ``memory`` reserved bytes."""
        ...


class Booter(Protocol):
    """Starter of machines that boot, kept for many starts on one hypervisor of this host."""

    async def start(self, spec: MachineSpec, hypervisor: Hypervisor) -> Machine:
        """Start to boot a machine; see :meth:`Hypervisor.start`.

        Raises:
            HostError: this host cannot run the machine.
            InputError: the kernel is invalid, or does not fit into the memory.
        """
        ...

    def evict(self, memory: int) -> None:
        """Free reserved memory until ``memory`` bytes are free, as far as possible."""
        ...

    async def close(self) -> None:
        """Start no more machines. Those that run continue; nothing is left when they have ended."""
        ...


class Machine(Protocol):
    """Virtual machine, from its start to its end; as a context manager it is stopped last."""

    console: Console

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor that runs the machine."""
        ...

    @property
    def transport(self) -> Transport:
        """The stream to the agent; bytes sent early wait for the agent."""
        ...

    async def use_stream(self, agent: socket.socket) -> None:
        """Take over the stream to an agent whose port is ``TCP``; the gateway has the other end.

        A second stream, that of another gateway, takes the place of the first.
        """
        ...

    @property
    def port(self) -> PortKind:
        """The port of the agent; ``AUTO`` before :meth:`take_port`."""
        ...

    @property
    def streams(self) -> Mapping[PortKind, Transport]:
        """The streams of the devices of an ``AUTO`` port, before :meth:`take_port`."""
        ...

    async def take_port(self, port: PortKind) -> None:
        """Have ``port`` as the agent's from now on, and close the streams of the others."""
        ...

    @property
    def has_network(self) -> bool:
        """True if the machine has a network interface."""
        ...

    @property
    def pid(self) -> int:
        """The id of the machine's process."""
        ...

    async def wait(self) -> int:
        """Wait until the machine has ended; return its exit status, negative for a signal."""
        ...

    async def read_exit_report(self) -> str:
        """Return the complaint of the machine's process, at its end or now; may be empty.

        Lines of a report follow the first sentence, indented.
        """
        ...

    def read_use(self) -> HostUse | None:
        """Return the machine's use of the host since its start; None if unknown, or at its end."""
        ...

    def describe_loss(self) -> tuple[str, str] | None:
        """Return sentence and hint if the host has ended the machine for memory, else None."""
        ...

    async def adopt_gateway(self, process: int) -> None:
        """Put the process of the machine's gateway under the limits of the machine.

        Raises:
            HostError: the host refuses.
        """
        ...

    async def stop(self) -> None:
        """End the machine at once and leave nothing of it. May be called again."""
        ...

    async def snapshot(self) -> Snapshot:
        """Stop the guest and return its snapshot; the caller closes it.

        All that came from the agent has to be read before, and nothing may be on its way to it.

        Raises:
            HostError: the machine has ended, or cannot be saved.
        """
        ...

    async def resume(self) -> None:
        """Continue after :meth:`snapshot`, which a template never does.

        Raises:
            HostError: the machine has ended.
        """
        ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def record_working_set(self, snapshot: Snapshot) -> Snapshot:
        """Return ``snapshot``, taken over, with the memory that this clone of it has written to.

        The next clones get that memory at once. A machine without such a record returns the
        snapshot unchanged.

        Raises:
            HostError: the machine has ended; then the snapshot is still open.
        """
        ...


class Template(Protocol):
    """Open snapshot from which machines are cloned, each with memory of its own.

    As a context manager it is closed at the end, also if the task is cancelled meanwhile.
    """

    async def clone(self, *, boot_log: bool = False, network: int | None = None) -> Machine:
        """Return a machine that continues from the snapshot, as soon as its process exists.

        Its agent waits for a Hello that says that it is a clone. ``network`` is the end of a link,
        as in :class:`MachineSpec`, for a snapshot with a network; without it, such a clone has an
        interface whose frames go nowhere.

        Raises:
            HostError: the clone cannot be made; the template may be damaged.
        """
        ...

    async def start_warm_template(self) -> WarmTemplate | None:
        """Return a clone from which others will be forked; None if the machine has no such clones.

        Raises:
            HostError: the clone cannot be made.
        """
        return None

    async def close(self) -> None:
        """Make no more clones. Those that exist continue; nothing is left when they have ended."""
        ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not at the top: a look-up of snapshots does not import asyncio.
        from slipway._util.threads import run_shielded

        await run_shielded(self.close())


class WarmTemplate(Protocol):
    """Clone that runs programs, is stopped for good, and is forked then.

    ``machine`` is like any clone until :meth:`freeze`; the template ends it.
    """

    machine: Machine

    @property
    def refusal(self) -> str:
        """Reason why this host lets the machine not be forked, now or later; empty if it may."""
        ...

    @property
    def has_ended(self) -> bool:
        """True if the machine has ended, so that no more clones can be made."""
        ...

    async def freeze(self) -> None:
        """Stop the machine, whose agent waits, for good.

        Raises:
            HostError: the machine cannot be forked; the template has to be closed.
        """
        ...

    async def clone(self, *, network: int | None = None) -> Machine:
        """Return a machine that continues from there; ``network`` as in :meth:`Template.clone`.

        Raises:
            HostError: the clone cannot be made.
        """
        ...

    async def close(self) -> None:
        """Make no more clones. Those that exist continue; nothing is left when they have ended."""
        ...
