"""Hypervisor ``kvm``: Slipway's own VMM, in one process for each VM."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway.machine.host_limits import HostLimits, HostNeed
from slipway.machine.kvm import KvmMachine
from slipway.machine.kvm_parts import VmmSockets, build_config, encode_start_message
from slipway.machine.module_command import build_module_command
from slipway.machine.process import ChildProcess
from slipway.vmm.kvm import usability
from slipway_initramfs.architectures import machine_architecture

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.machine.kvm_booter import KvmBooter
    from slipway.machine.kvm_template import KvmTemplate
    from slipway.machine.model import MachineSpec, MemoryReserve, Snapshot


class KvmHypervisor:
    """Runs guests on the processor; see :class:`slipway.machine.model.Hypervisor`."""

    name = "kvm"
    is_emulated = False
    declares_checksums = True
    # Measured: 12 MiB; an idle clone has 5 (bench/clones.py) and the pages that its interpreter
    # writes to.
    overhead = 64 << 20
    keeps_boot_files = False
    idle_memory = 96 << 20

    def __init__(self, state: Path | None = None, reason: str = "") -> None:
        """Take the arguments of :func:`slipway.machine.hypervisors.find_hypervisor`."""
        self._state = state
        self.architecture = machine_architecture()
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
        network = () if spec.network is None else (spec.network,)
        config = build_config(spec)
        message = encode_start_message(spec)
        limits = HostLimits.open(HostNeed.of_spec(self, spec))
        with ExitStack() as ours:
            ours.callback(limits.discard)
            with ExitStack() as theirs:
                sockets = VmmSockets.open(config.port, ours, theirs)
                inherited = (*sockets.theirs, *network)
                command = build_module_command("slipway.vmm.process.vmm_process", inherited)
                # The VMM guards itself: two programs less to execute.
                process = ChildProcess.start(command, pass_fds=inherited, guarded=False)
            machine = KvmMachine(
                process, sockets.channel, config, self, boot_log=spec.boot_log, limits=limits
            )
            await machine.start_vm(sockets, message, is_in_group=False)
            ours.pop_all()
        return machine

    def create_booter(self, reserve: MemoryReserve | None = None) -> KvmBooter:
        """Return a booter with a zygote; see :meth:`Hypervisor.create_booter`."""
        from slipway.machine.kvm_booter import KvmBooter

        return KvmBooter(reserve)

    async def open_template(self, snapshot: Snapshot) -> KvmTemplate:
        """Start a zygote for ``snapshot``; see :meth:`Hypervisor.open_template`."""
        from slipway.machine.kvm_template import KvmTemplate

        with ExitStack() as undo:
            undo.enter_context(snapshot)
            self.check()
            undo.pop_all()
        return await KvmTemplate.open(snapshot, self)

    def fingerprint(self) -> str:
        """Return a digest of this host's KVM; see :meth:`Hypervisor.fingerprint`."""
        from slipway.machine.kvm_fingerprint import compute_fingerprint

        return compute_fingerprint()
