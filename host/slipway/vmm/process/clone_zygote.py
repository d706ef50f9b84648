"""Zygote whose children are clones, ``python -c ... PARENT CONTROL MEMORY STATE``.

The arguments are the parent's process id and inherited descriptors: the control channel and a
snapshot's files. The zygote has read the state and mapped the memory, which each child inherits as
a private copy. It reads no data of a guest but the state.
"""

from __future__ import annotations

import os
import sys

from slipway._util.errors import HostError
from slipway.jail import privileges
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.memory import GuestMemory
from slipway.vmm.microvm import MicroVm
from slipway.vmm.process.vmm_process import VmmProcess, run_and_exit
from slipway.vmm.process.zygote import DESCRIPTORS, Zygote
from slipway.vmm.record import replace
from slipway.vmm.snapshot import state_file as snapshot
from slipway.vmm.spec import PORTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from slipway.jail.jail import Jail
    from slipway.vmm.snapshot.state_file import Saved


def main() -> NoReturn:
    """Make clones on request, and wait for their ends."""
    parent, channel, memory, state = map(int, sys.argv[-4:])
    privileges.set_parent_death_signal(parent)
    run_and_exit(channel, lambda: _open_zygote(channel, memory, state).run())


def _open_zygote(channel: int, memory: int, state: int) -> Zygote:
    """Return the zygote of a snapshot, whose files it takes over.

    Raises:
        HostError: the snapshot cannot be used here.
    """
    saved = snapshot.decode(snapshot.read(state))
    source = CloneSource(saved, memory)
    for descriptor in (memory, state):
        os.close(descriptor)
    if saved.network:  # once, before the forks
        import slipway.vmm.devices.virtio_net  # noqa: F401
    count = DESCRIPTORS + len(PORTS[saved.port]) + saved.network
    return Zygote(channel, range(count, count + 1), source.run_clone)


class CloneSource:
    """Source of clones: the state and the mapped memory of one snapshot."""

    def __init__(self, saved: Saved, memory: int) -> None:
        """Map the file ``memory``, which stays the caller's.

        Raises:
            HostError: the snapshot cannot be used here.
        """
        snapshot.check_architecture(saved, os.uname().machine)
        if os.fstat(memory).st_size != saved.memory:
            raise HostError("the snapshot's memory and state differ in size")
        architecture = find_architecture()
        self._saved = replace(saved, vcpus=architecture.drop_initial_values(saved.vcpus))
        self._memory = GuestMemory(architecture.place_memory(saved.memory), memory)

    def run_clone(self, jail: Jail, channel: int, sockets: list[int], began: int) -> int:
        """Run a clone in this process, a child of the zygote; return the exit status."""
        vm = MicroVm(self._saved.config, sockets, self._memory)
        vm.restore(self._saved)
        return VmmProcess(channel, vm, jail, began).run()
