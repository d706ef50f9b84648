"""Clones of a qemu machine's snapshot: QEMU's processes that begin where it was taken.

The recipe is Kata Containers' VM templating: the snapshot's memory is mapped privately, and the
state of the devices comes as an incoming migration.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from slipway._model.errors import HostError
from slipway._util.text import plain
from slipway._util.threads import uninterrupted
from slipway.machine import memory_files, migration
from slipway.machine.qemu import Board, QemuMachine, build_file_ram

if TYPE_CHECKING:
    from slipway.machine.model import Hypervisor, Snapshot


class QemuTemplate:
    """A snapshot, and how QEMU is started for a clone of it."""

    def __init__(self, snapshot: Snapshot, hypervisor: Hypervisor) -> None:
        self._snapshot = snapshot
        self._hypervisor = hypervisor
        self._open = True

    @classmethod
    async def open(cls, snapshot: Snapshot, hypervisor: Hypervisor) -> QemuTemplate:
        """Return a template; see :meth:`slipway.machine.model.Hypervisor.open_template`."""
        try:
            _check_snapshot(snapshot, hypervisor.name)
            if _is_usable(snapshot.memory):
                return cls(snapshot, hypervisor)
            return cls(await _copy_memory(snapshot), hypervisor)
        except BaseException:
            snapshot.close()
            raise

    async def clone(self, *, boot_log: bool = False) -> QemuMachine:
        """Start QEMU for a clone; see :meth:`slipway.machine.model.Template.clone`.

        A state that QEMU cannot load ends its process, as a guest that crashes does: whoever
        greets the agent hears why.
        """
        if not self._open:
            raise HostError("the template is closed")
        snapshot = self._snapshot
        board = Board(snapshot.memory_bytes, snapshot.cpus, snapshot.serial_port)
        files: tuple[int, ...] = ()
        # Reading the holes of a file would fill them; those of anonymous memory stay holes.
        ram = "memory-backend-ram"
        if not memory_files.is_empty(snapshot.memory):
            ram, files = build_file_ram(snapshot.memory, share=False), (snapshot.memory,)
        state = memory_files.reopen(snapshot.state)
        try:
            machine = await QemuMachine.launch(
                board,
                ram,
                ["-incoming", "defer"],
                (*files, state),
                hypervisor=self._hypervisor,
                boot_log=boot_log,
            )
        finally:
            os.close(state)
        try:
            migration.load(machine.monitor, state)
            if snapshot.serial_port:
                await _wait_resumed(machine)
        except BaseException:
            await machine.stop()
            raise
        return machine

    async def close(self) -> None:
        """Close the snapshot; see :meth:`Template.close`. May be called again."""
        if self._open:
            self._open = False
            self._snapshot.close()


async def _wait_resumed(machine: QemuMachine) -> None:
    """Until the guest runs: an emulated serial port loses what comes before."""
    try:
        await migration.wait_loaded(machine.monitor)
    except HostError as error:
        words = await machine.read_exit_report()
        raise HostError(f"QEMU could not load the snapshot: {words or error.message}") from None


async def _copy_memory(snapshot: Snapshot) -> Snapshot:
    """The snapshot with a copy of its memory in the place of that, which is closed."""
    copies: list[int] = []

    async def copy() -> None:
        make = memory_files.copy_sealed
        copies.append(await asyncio.to_thread(make, "slipway-memory", snapshot.memory))

    try:
        await uninterrupted(copy())  # the thread would go on to use the descriptor
    except BaseException:
        for descriptor in copies:
            os.close(descriptor)
        raise
    os.close(snapshot.memory)
    return replace(snapshot, memory=copies[0])


def _is_usable(memory: int) -> bool:
    """Whether QEMU can open ``memory``, which it does to write even if it maps it privately.

    A sealed file it cannot change all the same. One on a disk it could, if a guest broke out into
    it: it runs with our rights and could open the store's files by their names as well.
    """
    return memory_files.is_sealed(memory) or os.access(f"/proc/self/fd/{memory}", os.R_OK | os.W_OK)


def _check_snapshot(snapshot: Snapshot, hypervisor: str) -> None:
    """Raises HostError for what cannot be a snapshot of this machine."""
    if snapshot.machine != hypervisor:
        raise HostError(f"a snapshot of the machine {plain(snapshot.machine)!r} is not for QEMU")
    memory, state = os.fstat(snapshot.memory).st_size, os.fstat(snapshot.state).st_size
    if memory != snapshot.memory_bytes:
        raise HostError(
            f"the snapshot is damaged: its memory has {memory} bytes, not {snapshot.memory_bytes}"
        )
    if not 0 < state <= snapshot.memory_bytes + migration.STATE_BYTES:
        raise HostError(f"the snapshot is damaged: its state has {state} bytes")
