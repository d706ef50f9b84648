"""Template of the hypervisor ``qemu``: clones are processes of QEMU that continue from a snapshot.

As in Kata Containers' VM templating, the snapshot's memory is mapped privately, and the state
of the devices comes as an incoming migration.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._util.errors import HostError, NoAnswer
from slipway._util.threads import run_shielded
from slipway.machine import memory_files, migration
from slipway.machine.child import open_pair, open_unplugged_link
from slipway.machine.model import PortKind, Template
from slipway.machine.qemu import (
    FORKED_SANDBOX,
    SANDBOX,
    Board,
    QemuCommand,
    QemuMachine,
    build_file_ram,
    build_network_arguments,
)

if TYPE_CHECKING:
    from slipway.machine.model import Hypervisor, Snapshot
    from slipway.machine.qemu_targets import QemuTarget
    from slipway.machine.qemu_warm_template import QemuWarmTemplate


class QemuTemplate(Template):
    """Open snapshot, from which QEMU starts clones."""

    def __init__(self, snapshot: Snapshot, hypervisor: Hypervisor, target: QemuTarget) -> None:
        self._snapshot = snapshot
        self._target = target
        self._hypervisor = hypervisor
        self._open = True

    @classmethod
    async def open(
        cls, snapshot: Snapshot, hypervisor: Hypervisor, target: QemuTarget
    ) -> QemuTemplate:
        """Return a template; see :meth:`slipway.machine.model.Hypervisor.open_template`."""
        with ExitStack() as undo:
            undo.enter_context(snapshot)
            _check_snapshot(snapshot, hypervisor)
            if not _is_usable(snapshot.memory):
                snapshot = await _copy_memory(snapshot)
            undo.pop_all()
        return cls(snapshot, hypervisor, target)

    async def clone(self, *, boot_log: bool = False, network: int | None = None) -> QemuMachine:
        """Start QEMU for a clone; see :meth:`slipway.machine.model.Template.clone`.

        A state that QEMU cannot load ends its process, like a guest that crashes: the handshake
        with the agent fails then, with QEMU's reason.
        """
        if not self._open:
            raise HostError("the template is closed")
        with ExitStack() as launched:
            command, state = self._build_command(launched, network, SANDBOX)
            machine = await QemuMachine.launch(
                command, hypervisor=self._hypervisor, boot_log=boot_log
            )
        await self._load(machine, state)
        return machine

    async def start_warm_template(self) -> QemuWarmTemplate | None:
        """Return a clone from which others are forked; see :meth:`Template.start_warm_template`."""
        if not self._open:
            raise HostError("the template is closed")
        if self._snapshot.port not in (PortKind.VIRTIO, PortKind.SERIAL):
            return None  # a connection over the network leads to the one gateway
        # A single run takes a clone, and is not to pay for these imports.
        from slipway.machine.gateway_handle import create_link
        from slipway.machine.qemu_warm_template import QemuWarmTemplate, WarmLink

        async with AsyncExitStack() as undo:
            with ExitStack() as launched:
                link = None
                if self._snapshot.network:
                    peer, number = open_pair(create_link, undo, launched)
                    link = WarmLink(number, peer)
                command, state = self._build_command(
                    launched, link.number if link else None, FORKED_SANDBOX
                )
                warm = await QemuWarmTemplate.start(command, self._hypervisor, link)
            undo.push_async_callback(warm.close)
            await self._load(warm.machine, state)
            undo.pop_all()
        return warm

    def _build_command(
        self, launched: ExitStack, network: int | None, sandbox: str
    ) -> tuple[QemuCommand, int]:
        """Return the command of a clone, and the descriptor of the state that it loads.

        ``launched`` closes what only the start needs.

        Raises:
            HostError: this process has too many descriptors.
        """
        snapshot = self._snapshot
        board = Board(
            self._target, snapshot.memory_bytes, snapshot.cpus, snapshot.port, snapshot.network
        )
        rest = ["-incoming", "defer"]
        files: tuple[int, ...] = ()
        # To read a hole of a file fills it; holes of anonymous memory stay.
        ram = "memory-backend-ram"
        if not memory_files.is_empty(snapshot.memory):
            ram, files = build_file_ram(snapshot.memory, share=False), (snapshot.memory,)
        if snapshot.network:
            link = open_unplugged_link(launched) if network is None else network
            rest += [*build_network_arguments(link), *migration.NO_ANNOUNCEMENTS]
            files = (*files, link)
        state = memory_files.reopen(snapshot.state)
        launched.callback(os.close, state)
        return QemuCommand(board, ram, rest, (*files, state), sandbox), state

    async def _load(self, machine: QemuMachine, state: int) -> None:
        """Let a new machine load the state, whose descriptor it has inherited.

        Raises:
            HostError: an emulated serial port needs a guest that runs, and QEMU has ended; the
                machine is stopped then.
        """
        async with AsyncExitStack() as undo:
            undo.push_async_callback(machine.stop)
            migration.load(machine.monitor, state)
            if self._snapshot.agent_port is not None:
                await machine.take_port(self._snapshot.agent_port)
            if machine.port is PortKind.SERIAL:
                await _wait_resumed(machine)
            undo.pop_all()

    async def close(self) -> None:
        """Close the snapshot; see :meth:`Template.close`. May be called again."""
        if self._open:
            self._open = False
            self._snapshot.close()


async def _wait_resumed(machine: QemuMachine) -> None:
    """Wait until the guest runs: an emulated serial port loses bytes that come before."""
    try:
        await migration.wait_loaded(machine.monitor)
    except NoAnswer:
        raise
    except HostError as error:
        words = await machine.read_exit_report()
        raise HostError(f"QEMU could not load the snapshot: {words or error.message}") from None


async def _copy_memory(snapshot: Snapshot) -> Snapshot:
    """Replace the memory of ``snapshot``, which is closed, by a sealed copy.

    Raises:
        HostError: the host has no room for the copy; the snapshot is unchanged.
    """
    with ExitStack() as undo:

        async def copy() -> int:
            make = memory_files.copy_sealed
            memory = await asyncio.to_thread(make, "slipway-memory", snapshot.memory)
            undo.callback(os.close, memory)
            return memory

        memory = await run_shielded(copy())  # the thread uses the descriptor until it ends
        undo.pop_all()
    os.close(snapshot.memory)
    return replace(snapshot, memory=memory)


def _is_usable(memory: int) -> bool:
    """Tell if QEMU can open ``memory``, which it does for writing, even for a private mapping.

    QEMU cannot change a sealed file. A file on a disk could be changed by a guest that controls
    QEMU; but QEMU runs with our rights, and could open the store's files by their names as well.
    """
    return memory_files.is_sealed(memory) or os.access(f"/proc/self/fd/{memory}", os.R_OK | os.W_OK)


def _check_snapshot(snapshot: Snapshot, hypervisor: Hypervisor) -> None:
    """Check that ``snapshot`` is one of this hypervisor, and the sizes of its files.

    Raises:
        HostError: the snapshot is of another hypervisor or architecture, or damaged.
    """
    snapshot.check_origin(hypervisor)
    memory, state = os.fstat(snapshot.memory).st_size, os.fstat(snapshot.state).st_size
    if memory != snapshot.memory_bytes:
        raise HostError(
            f"the snapshot is damaged: its memory has {memory} bytes, not {snapshot.memory_bytes}"
        )
    if not 0 < state <= snapshot.memory_bytes + migration.STATE_BYTES:
        raise HostError(f"the snapshot is damaged: its state has {state} bytes")
