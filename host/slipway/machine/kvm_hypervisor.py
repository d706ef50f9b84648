"""Hypervisor ``kvm``: Slipway's own VMM, in one process for each VM."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._model.errors import HostError
from slipway.machine.kvm import PACKAGES, KvmMachine
from slipway.machine.kvm_parts import Shape, Sockets
from slipway.machine.process import Process
from slipway.vmm.kvm import usability

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.machine.kvm_template import KvmTemplate
    from slipway.machine.model import MachineSpec, Snapshot

# -I and -S: modules of the user and of the site are not imported, hence the path is an argument.
_PROGRAM = "import sys; sys.path[:0] = sys.argv[1:2]; from slipway.vmm.process import main; main()"


class KvmHypervisor:
    """Runs guests on the processor; see :class:`slipway.machine.model.Hypervisor`."""

    name = "kvm"
    is_emulated = False
    # Measured: 12 MiB; an idle clone has 5 (bench/clones.py) and the pages that its interpreter
    # writes to.
    overhead = 64 << 20
    idle_memory = 96 << 20

    def __init__(self, state: Path | None = None, reason: str = "") -> None:
        """Take the arguments of :func:`slipway.machine.hypervisors.find_hypervisor`."""
        self._state = state
        self.reason = reason

    def check(self) -> None:
        """Check that KVM is usable; see :meth:`Hypervisor.check`."""
        usable, reason = usability.examine(self._state)
        if not usable:
            raise HostError(
                f"KVM cannot be used here: {reason}",
                "Leave out --machine, or name qemu, which runs the same programs more slowly.",
            )

    async def start(self, spec: MachineSpec) -> KvmMachine:
        """Start a VMM; see :meth:`Hypervisor.start`."""
        self.check()
        shape = Shape(spec.memory_bytes, spec.cpus, spec.serial_port)
        with ExitStack() as ours:
            with ExitStack() as theirs:
                sockets = Sockets.open(ours, theirs)
                numbers = map(str, (os.getpid(), *sockets.theirs))
                argv = [sys.executable, "-IS", "-c", _PROGRAM, PACKAGES, *numbers]
                # The VMM guards itself: two programs less to execute.
                process = Process.start(argv, pass_fds=sockets.theirs, guarded=False)
            machine = KvmMachine(process, sockets.channel, shape, self, boot_log=spec.boot_log)
            await machine.take(sockets, spec)
            ours.pop_all()
        return machine

    async def open_template(self, snapshot: Snapshot) -> KvmTemplate:
        """Start a zygote for ``snapshot``; see :meth:`Hypervisor.open_template`."""
        from slipway.machine.kvm_template import KvmTemplate

        with ExitStack() as undo:
            undo.callback(snapshot.close)
            self.check()
            undo.pop_all()
        return await KvmTemplate.of(snapshot, self)

    def fingerprint(self) -> str:
        """Return a digest of this host's KVM; see :meth:`Hypervisor.fingerprint`."""
        from slipway.machine.kvm_fingerprint import fingerprint

        return fingerprint()
