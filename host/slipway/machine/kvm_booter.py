"""Booter of the hypervisor ``kvm``: a zygote, whose children boot."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway.machine.kvm import KvmMachine
from slipway.machine.kvm_parts import VmmSockets, build_config
from slipway.machine.kvm_zygote import KvmZygote

if TYPE_CHECKING:
    from slipway.machine.model import Hypervisor, MachineSpec

_MODULE = "slipway.vmm.process.boot_zygote"


class KvmBooter:
    """Booter that forks VMMs of a zygote, started by the first boot.

    A new zygote takes the place of one that has ended.
    """

    def __init__(self) -> None:
        self._zygote: KvmZygote | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def start(self, spec: MachineSpec, hypervisor: Hypervisor) -> KvmMachine:
        """Start a VMM; see :meth:`slipway.machine.model.Booter.start`."""
        hypervisor.check()
        config = build_config(spec)
        network = () if spec.network is None else (spec.network,)
        zygote = await self._find_zygote()
        with ExitStack() as ours:
            with ExitStack() as theirs:
                sockets = VmmSockets.open(config.port, ours, theirs)
                process = await zygote.spawn((*sockets.theirs, *network))
            machine = KvmMachine(
                process, sockets.channel, config, hypervisor, boot_log=spec.boot_log
            )
            await machine.start_vm(sockets, spec)
            ours.pop_all()
        return machine

    async def _find_zygote(self) -> KvmZygote:
        """Return a zygote that runs, for any number of boots at once."""
        async with self._starting:
            if self._closed:
                raise HostError("the booter is closed")
            if self._zygote is not None and self._zygote.has_ended:
                await self._zygote.close()
                self._zygote = None
            if self._zygote is None:
                self._zygote = await KvmZygote.start(_MODULE)
            return self._zygote

    async def close(self) -> None:
        """Start no more VMMs; see :meth:`slipway.machine.model.Booter.close`."""
        async with self._starting:
            self._closed = True
            if self._zygote is not None:
                await self._zygote.close()
