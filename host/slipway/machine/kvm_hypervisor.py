"""Hypervisor ``kvm``: Slipway's own VMM, in one process for each VM."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway.machine.kvm_booter import BOOT_ZYGOTE, KvmBooter, boot_machine
from slipway.machine.zygote_handle import ZygoteHandle
from slipway.vmm.kvm import usability
from slipway_initramfs.architectures import machine_architecture

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.machine.kvm import KvmMachine
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
        zygote = await ZygoteHandle.start(BOOT_ZYGOTE)
        try:
            return await boot_machine(zygote, spec, self)
        finally:
            await zygote.close()  # it ends after the machine

    def create_booter(self, reserve: MemoryReserve | None = None) -> KvmBooter:
        """Return a booter with a zygote; see :meth:`Hypervisor.create_booter`."""
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
