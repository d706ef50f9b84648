"""Booters of a runtime, which speed up its cold boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway._admission.admission import Admission
    from slipway.machine.model import Booter, Hypervisor, Machine, MachineSpec


class Booters:
    """Booters by the name of their hypervisor; the first boot on a hypervisor creates its booter.

    For one event loop.
    """

    def __init__(self, admission: Admission | None = None) -> None:
        """With ``admission``, what booters keep in memory is part of the memory for runs."""
        self._booters: dict[str, Booter | None] = {}
        self._admission = admission
        if admission is not None:
            admission.reclaim_boots = self._evict

    async def start(self, spec: MachineSpec, hypervisor: Hypervisor) -> Machine:
        """Start a machine; see :meth:`slipway.machine.model.Hypervisor.start`."""
        if hypervisor.name not in self._booters:
            self._booters[hypervisor.name] = hypervisor.create_booter(self._admission)
        booter = self._booters[hypervisor.name]
        if booter is None:
            return await hypervisor.start(spec)
        return await booter.start(spec, hypervisor)

    def _evict(self, memory: int) -> None:
        for booter in self._booters.values():
            if booter is not None:
                booter.evict(memory)

    async def close(self) -> None:
        """Close all booters. Machines continue."""
        if self._admission is not None:
            self._admission.reclaim_boots = None
        while self._booters:
            _, booter = self._booters.popitem()
            if booter is not None:
                await booter.close()
