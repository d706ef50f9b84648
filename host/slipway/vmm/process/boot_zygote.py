"""Zygote whose children boot, ``python -c ... PARENT CONTROL``.

The arguments are the parent's process id and an inherited descriptor, the control channel. Each
child gets its own channel, and on it the message which guest to boot.
"""

from __future__ import annotations

import sys

# Modules that a VMM imports only if its machine needs them; here once, before the forks.
import slipway.vmm.devices.virtio_net  # noqa: F401
from slipway.jail import privileges
from slipway.vmm.arch.host import find_architecture
from slipway.vmm.process.vmm_process import VmmProcess, boot_vm, run_and_exit
from slipway.vmm.process.zygote import DESCRIPTORS, Zygote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from slipway.jail.jail import Jail

# A machine has up to two sockets of the agent, and may have a network and a boot template.
_COUNTS = range(DESCRIPTORS, DESCRIPTORS + 5)


def main() -> NoReturn:
    """Start VMMs on request, and wait for their ends."""
    parent, channel = map(int, sys.argv[-2:])
    privileges.set_parent_death_signal(parent)
    run_and_exit(channel, lambda: _open_zygote(channel).run())


def _open_zygote(channel: int) -> Zygote:
    find_architecture()  # imports the modules of this host's
    return Zygote(channel, _COUNTS, _run_vm)


def _run_vm(jail: Jail, channel: int, sockets: list[int], began: int) -> int:
    return VmmProcess(channel, boot_vm(channel, sockets), jail, began).run()
