"""The seam: what a machine is made of, what it gives, and what it can be told."""

from __future__ import annotations

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
    """

    kernel: Path
    initrd: Path
    kernel_arguments: str
    memory_bytes: int
    state: Path
    cpus: int = 1
    serial_port: bool = False
    boot_log: bool = False


@dataclass(frozen=True, slots=True)
class Transport:
    """An ordered byte stream to the agent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Machine(Protocol):
    """A virtual machine, from its start to its end."""

    name: str
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
