"""Template of the hypervisor ``kvm``: a zygote, whose children are the clones."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway.machine.child import open_unplugged_link
from slipway.machine.host_limits import HostLimits, HostNeed
from slipway.machine.kvm import KvmMachine
from slipway.machine.kvm_parts import VmmSockets
from slipway.machine.model import Template
from slipway.machine.zygote_handle import ZygoteHandle
from slipway.vmm.snapshot import state_file as states
from slipway.vmm.spec import VmConfig

if TYPE_CHECKING:
    from slipway.machine.model import Hypervisor, PortKind, Snapshot

_MODULE = "slipway.vmm.process.clone_zygote"


class KvmTemplate(Template):
    """Zygote of one snapshot, and the configuration of its clones."""

    def __init__(
        self,
        zygote: ZygoteHandle,
        config: VmConfig,
        hypervisor: Hypervisor,
        agent_port: PortKind | None = None,
    ) -> None:
        self._agent_port = agent_port
        self._zygote = zygote
        self._config = config
        self._hypervisor = hypervisor
        self._closed = False

    @classmethod
    async def open(cls, snapshot: Snapshot, hypervisor: Hypervisor) -> KvmTemplate:
        """Start a zygote; see :meth:`slipway.machine.model.Hypervisor.open_template`.

        Raises:
            HostError: the snapshot cannot be used.
        """
        with snapshot:
            _check_snapshot(snapshot, hypervisor)
            zygote = await ZygoteHandle.start(_MODULE, (snapshot.memory, snapshot.state))
        return cls(zygote, _find_config(snapshot), hypervisor, snapshot.agent_port)

    @property
    def pid(self) -> int:
        """The id of the zygote's process."""
        return self._zygote.pid

    async def clone(self, *, boot_log: bool = False, network: int | None = None) -> KvmMachine:
        """Request a child, and wait until its VM runs; see :meth:`Template.clone`.

        Raises:
            HostError: the child cannot be forked, or cannot restore the snapshot.
        """
        if self._closed:
            raise HostError("the template is closed")
        config = self._config
        need = HostNeed.of_guest(
            self._hypervisor, config.memory_bytes, config.cpus, network=config.network
        )
        limits = HostLimits.open(need)
        with ExitStack() as ours:
            ours.callback(limits.discard)
            with ExitStack() as theirs:
                sockets = VmmSockets.open(config.port, ours, theirs)
                given = list(sockets.theirs)
                if config.network:
                    given.append(open_unplugged_link(theirs) if network is None else network)
                process = await self._zygote.spawn(given, limits.descriptor)
            machine = KvmMachine(
                process,
                sockets.channel,
                config,
                self._hypervisor,
                boot_log=boot_log,
                limits=limits,
            )
            await machine.start_vm(sockets)
            if self._agent_port is not None:
                await machine.take_port(self._agent_port)
            ours.pop_all()
        return machine

    async def close(self) -> None:
        """Make no more clones; see :meth:`Template.close`. May be called again."""
        self._closed = True
        await self._zygote.close()


def _find_config(snapshot: Snapshot) -> VmConfig:
    """Return the configuration of the machine of ``snapshot``."""
    return VmConfig(snapshot.memory_bytes, snapshot.cpus, snapshot.port.value, snapshot.network)


def _check_snapshot(snapshot: Snapshot, hypervisor: Hypervisor) -> None:
    """Check that ``snapshot`` is one of this hypervisor, and that its parts fit together.

    Raises:
        HostError: they do not, or its state is damaged.
    """
    snapshot.check_origin(hypervisor)
    saved = states.decode(states.read(snapshot.state))
    if saved.config != _find_config(snapshot):
        raise HostError("the snapshot is damaged: its state is of another machine")
    size = os.fstat(snapshot.memory).st_size
    if size != saved.memory:
        raise HostError(f"the snapshot is damaged: its memory has {size} bytes, not {saved.memory}")
