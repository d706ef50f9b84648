"""Warm template of the hypervisor ``qemu``: a stopped QEMU that has run programs, and its forks.

A clone that loads a snapshot translates the guest's code anew. A fork has all translated code of
its original, and shares it. The original and its forks are children of a zygote
(:mod:`slipway.machine.fork.zygote`).
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway._util.threads import run_shielded
from slipway.machine.child import open_unplugged_link
from slipway.machine.model import WarmTemplate
from slipway.machine.qemu import QemuEnds, QemuMachine
from slipway.machine.zygote_handle import ZygoteHandle
from slipway.vmm.process import control

if TYPE_CHECKING:
    import socket

    from slipway.machine.model import Hypervisor
    from slipway.machine.qemu import QemuCommand
    from slipway.machine.zygote_child import ZygoteChild

_STDERR = 2


@dataclass(frozen=True, slots=True)
class WarmLink:
    """Link of a QEMU that will be forked: its descriptor there, and the open other end.

    QEMU reads no more from a link whose other end was closed, and neither would its forks.
    """

    number: int
    peer: socket.socket


class QemuWarmTemplate(WarmTemplate):
    """Zygote, its QEMU, and after :meth:`freeze` the forks of that."""

    def __init__(
        self, zygote: ZygoteHandle, machine: QemuMachine, link: WarmLink | None = None
    ) -> None:
        """Take all over."""
        self.machine = machine
        self._zygote = zygote
        self._link = link

    @classmethod
    async def start(
        cls, command: QemuCommand, hypervisor: Hypervisor, link: WarmLink | None
    ) -> QemuWarmTemplate:
        """Start a zygote, and QEMU by it. ``link`` is taken over after success.

        Raises:
            HostError: the host has no room for a process, or QEMU is missing.
        """
        zygotes: list[ZygoteHandle] = []
        async with AsyncExitStack() as undo:

            async def start_program(
                arguments: list[str], inherited: tuple[int, ...]
            ) -> ZygoteChild:
                zygote, process = await _start_zygote(undo, arguments, inherited)
                zygotes.append(zygote)
                return process

            machine = await QemuMachine.launch(command, hypervisor=hypervisor, start=start_program)
            undo.pop_all()
        return cls(zygotes[0], machine, link)

    @property
    def refusal(self) -> str:
        """The zygote's reason why there will be no forks; see :class:`WarmTemplate`."""
        return self._zygote.refusal

    @property
    def has_ended(self) -> bool:
        """True after the end of QEMU or its zygote; see :class:`WarmTemplate`."""
        return self._zygote.has_ended or self.machine.has_ended

    async def freeze(self) -> None:
        """Stop QEMU for good; see :meth:`WarmTemplate.freeze`."""
        await self.machine.monitor.execute("stop")
        sockets = self.machine.sockets
        links = () if self._link is None else (self._link.number,)
        replaced = (*sockets.numbers, *links, _STDERR)
        self._zygote.send(control.FREEZE, files=",".join(map(str, replaced)))
        await self._zygote.wait_ready()

    async def clone(self, *, network: int | None = None) -> QemuMachine:
        """Return a fork of QEMU; see :meth:`WarmTemplate.clone`."""
        board = self.machine.board
        async with AsyncExitStack() as undo:
            with ExitStack() as theirs:
                ends = QemuEnds.open(board.port, undo, theirs)
                given = list(ends.theirs.numbers)
                if board.network:
                    given.append(open_unplugged_link(theirs) if network is None else network)
                process = await self._zygote.spawn(given)
            undo.push_async_callback(process.kill)
            machine = await QemuMachine.adopt(process, ends, board, self.machine.hypervisor)
            undo.pop_all()
        return machine

    async def close(self) -> None:
        """End the stopped QEMU; see :meth:`WarmTemplate.close`. May be called again."""
        await run_shielded(self.machine.stop())
        await self._zygote.close()
        if self._link is not None:
            self._link.peer.close()


async def _start_zygote(
    undo: AsyncExitStack, arguments: list[str], inherited: tuple[int, ...]
) -> tuple[ZygoteHandle, ZygoteChild]:
    """Start a zygote with a program that inherits ``inherited``; return it and the program.

    Raises:
        HostError: the host has no room for a process.
    """
    try:
        reader, writer = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot start {arguments[0]}: {error.strerror}") from None
    numbers = ",".join(map(str, inherited))
    try:
        zygote = ZygoteHandle.launch(
            undo, "slipway.machine.fork.zygote", (writer,), (numbers, *arguments), inherited
        )
    except HostError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return zygote, await zygote.wait_first_child(reader)
