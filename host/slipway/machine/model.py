"""The seam: what a machine is made of, what it gives, and what it can be told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from slipway.machine.console import Console


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a machine is made of. ``memory_bytes`` is the guest's RAM.

    ``serial_port`` gives the agent the second UART even where a faster port exists: for kernels
    whose modules we do not have. ``state`` is a directory for what may be remembered of this host.
    A ``template`` is started to be snapshotted once, and never goes on after that.
    """

    kernel: Path
    initrd: Path
    kernel_arguments: str
    memory_bytes: int
    state: Path
    cpus: int = 1
    serial_port: bool = False
    boot_log: bool = False
    template: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A machine as it stood at one moment: what its clones begin as.

    ``memory`` and ``state`` are descriptors of regular files that nobody writes to any more;
    whoever has the snapshot owns both. ``memory`` is the guest's RAM (``memory_bytes`` long, with
    holes where it is zero), ``state`` all else, and what of the RAM is other than ``memory`` says.
    ``machine`` is the name of the machine that it is of; only that one can read ``state``.
    """

    machine: str
    memory_bytes: int
    cpus: int
    serial_port: bool
    memory: int
    state: int

    def close(self) -> None:
        """Close both files. Clones that exist keep what they need of them."""
        for descriptor in (self.memory, self.state):
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Transport:
    """An ordered byte stream to the agent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Machine(Protocol):
    """A virtual machine, from its start to its end."""

    name: str
    translates: bool
    """Whether code of the guest's is translated as it runs, so that its first run is slow."""
    overhead: int
    """Bytes that a machine takes at most beside its guest's memory."""
    idle_memory: int
    """Bytes that a clone which waits for a job has at most for itself."""
    console: Console

    @classmethod
    def check(cls, state: Path) -> None:
        """Check that this host can run such a machine; ``state`` as in :class:`MachineSpec`.

        Raises:
            HostError: it cannot.
        """
        ...

    @classmethod
    async def start(cls, spec: MachineSpec) -> Machine:
        """Begin to boot; returns as soon as the machine exists.

        Raises:
            HostError: this host cannot run such a machine.
        """
        ...

    @property
    def transport(self) -> Transport:
        """The stream to the agent; bytes sent early wait for it."""
        ...

    @property
    def pid(self) -> int:
        """The process that is the machine."""
        ...

    async def wait(self) -> int:
        """Until the machine has ended; its process's exit status, negative for a signal."""
        ...

    async def last_words(self) -> str:
        """What the machine's process complained about when it ended, or does; may be empty.

        Lines of a report follow the first sentence, indented.
        """
        ...

    async def stop(self) -> None:
        """End the machine at once and leave nothing of it. May be called again."""
        ...

    async def snapshot(self) -> Snapshot:
        """What the machine is now; it stands still from then on.

        All that came from the agent has to be read before, and nothing may be on its way to it.

        Raises:
            HostError: it cannot be, or the machine has ended.
        """
        ...

    async def resume(self) -> None:
        """Go on after :meth:`snapshot`, which a template never does.

        Raises:
            HostError: the machine has ended.
        """
        ...

    async def noted(self, snapshot: Snapshot) -> Snapshot:
        """``snapshot``, taken over, with a note of what this clone of it has touched since.

        Its next clones get that at once. A machine that can note nothing gives it back as it is.

        Raises:
            HostError: the machine has ended; then the snapshot is still open.
        """
        ...

    @classmethod
    async def template(cls, snapshot: Snapshot, state: Path) -> Template:
        """What makes clones of ``snapshot``, which it takes over, whatever happens.

        ``state`` as in :class:`MachineSpec`.

        Raises:
            HostError: the snapshot cannot be used, or this host cannot run such a machine.
        """
        ...

    @classmethod
    def fingerprint(cls) -> str:
        """All of this host that its snapshots depend on: where it differs, they are of no use.

        Raises:
            HostError: this host cannot run such a machine.
        """
        ...


class Template(Protocol):
    """A snapshot from which machines are cloned, each with memory of its own."""

    async def clone(self, *, boot_log: bool = False) -> Machine:
        """A machine that goes on where the snapshot was taken; returns as soon as it exists.

        Its agent waits for a Hello that tells it that it is a clone.

        Raises:
            HostError: it cannot be made; the template may be of no use any more.
        """
        ...

    async def close(self) -> None:
        """Make no more clones. Those that exist go on; nothing is left when they have ended."""
        ...
