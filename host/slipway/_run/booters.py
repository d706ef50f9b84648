"""Booters of a runtime, which speed up its cold boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway.machine.model import Booter, Hypervisor, Machine, MachineSpec


class Booters:
    """Booters by the name of their hypervisor; the first boot on a hypervisor creates its booter.

    For one event loop.
    """

    def __init__(self) -> None:
        self._booters: dict[str, Booter | None] = {}

    async def start(self, spec: MachineSpec, hypervisor: Hypervisor) -> Machine:
        """Start a machine; see :meth:`slipway.machine.model.Hypervisor.start`."""
        if hypervisor.name not in self._booters:
            self._booters[hypervisor.name] = hypervisor.create_booter()
        booter = self._booters[hypervisor.name]
        if booter is None:
            return await hypervisor.start(spec)
        return await booter.start(spec, hypervisor)

    async def close(self) -> None:
        """Close all booters. Machines continue."""
        while self._booters:
            _, booter = self._booters.popitem()
            if booter is not None:
                await booter.close()
