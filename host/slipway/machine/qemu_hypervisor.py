"""Hypervisor ``qemu``: emulation by QEMU's code translator (TCG)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from slipway._util.errors import HostError
from slipway.machine import memory_files, qemu
from slipway.machine.host_limits import HostNeed
from slipway.machine.qemu import CACHE_MIB, RAM_STEP, Board, QemuCommand, QemuMachine
from slipway.machine.qemu_targets import find_target
from slipway.machine.tsc import find_tsc_khz, measure_khz

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.machine.model import MachineSpec, MemoryReserve, Snapshot
    from slipway.machine.qemu_template import QemuTemplate


# Where the host has no TSC, QEMU's cpu_get_host_ticks() counts nanoseconds.
NANOSECOND_KHZ = 1_000_000


class QemuHypervisor:
    """Runs guests in QEMU's processes; see :class:`slipway.machine.model.Hypervisor`."""

    name = "qemu"
    is_emulated = True
    declares_checksums = False  # its link has no header for the flag
    # Measured (bench/clones.py), without the boot files: 85 MiB beside the guest's memory with a
    # cache of 64; an idle clone has 95 (Bash) to 435 (Rust) unshared, with the compiler's
    # translated code.
    overhead = (CACHE_MIB + 64) << 20
    idle_memory = 448 << 20

    def __init__(self, state: Path | None = None, reason: str = "", architecture: str = "") -> None:
        """Take the arguments of :func:`slipway.machine.hypervisors.find_hypervisor`."""
        self._state = state
        self.target = find_target(architecture)
        self.architecture = self.target.architecture
        self.keeps_boot_files = self.target.keeps_boot_files
        self.reason = reason

    def check(self) -> None:
        """Check that QEMU is installed; see :meth:`Hypervisor.check`."""
        self.target.find_program()

    async def start(self, spec: MachineSpec) -> QemuMachine:
        """Start QEMU; see :meth:`Hypervisor.start`."""
        self.target.find_program()
        size = -(-spec.memory_bytes // RAM_STEP) * RAM_STEP
        board = Board(self.target, size, spec.cpus, spec.port, spec.network is not None)
        rest = qemu.build_boot_arguments(spec, self.target, self._find_tsc_khz())
        files: tuple[int, ...] = ()
        need = HostNeed.of_spec(self, spec)
        if spec.network is not None:
            rest += qemu.build_network_arguments(spec.network)
            files = (spec.network,)
        if not spec.template:
            command = QemuCommand(board, "memory-backend-ram", rest, files)
            return await QemuMachine.launch(
                command, hypervisor=self, need=need, boot_log=spec.boot_log
            )
        with ExitStack() as undo:
            memory = memory_files.create("slipway-memory", size)
            undo.callback(os.close, memory)
            ram = qemu.build_file_ram(memory, share=True)
            command = QemuCommand(board, ram, rest, (memory, *files))
            machine = await QemuMachine.launch(
                command, hypervisor=self, need=need, boot_log=spec.boot_log
            )
            machine.keep_memory(memory)
            undo.pop_all()
        return machine

    def _find_tsc_khz(self) -> int:
        """Return the rate of the TSC that QEMU gives the guest, in kHz; 0 for a guest without.

        Raises:
            HostError: the rate cannot be measured.
        """
        if not self.target.has_tsc:
            return 0
        if not self.target.is_native:
            return NANOSECOND_KHZ
        try:
            return measure_khz() if self._state is None else find_tsc_khz(self._state / "tsc-khz")
        except OSError as error:
            raise HostError(
                f"the rate of this host's TSC cannot be measured: {error.strerror}",
                "Measuring takes a page of memory that is executable; allow it to this process.",
            ) from None

    def create_booter(self, reserve: MemoryReserve | None = None) -> None:
        """Return None: QEMU starts without a process beside it."""

    async def open_template(self, snapshot: Snapshot) -> QemuTemplate:
        """Return a template; see :meth:`Hypervisor.open_template`."""
        from slipway.machine.qemu_template import QemuTemplate

        return await QemuTemplate.open(snapshot, self, self.target)

    def fingerprint(self) -> str:
        """Return a digest of QEMU, its options and the CPU; see :meth:`Hypervisor.fingerprint`."""
        return qemu.compute_fingerprint(self.target)
