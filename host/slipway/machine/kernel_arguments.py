"""Part of the kernel's command line that all machines share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway.machine.model import MachineSpec

# The root is a ramfs: a tmpfs would be limited to half of the memory, and the kernel would boot
# with the rest of the files missing. Mitigations protect programs of one guest from each other, and
# a guest has a single user. Preparations for tracing take a sixth of the kernel's start, and
# tracing is not used; a kernel without one of these functions ignores its name.
COMMON = (
    "console=ttyS0 rootfstype=ramfs panic=-1 mitigations=off init_on_alloc=0"
    " cryptomgr.notests random.trust_cpu=on"
    " initcall_blacklist=trace_eval_init,init_kprobe_trace,init_blk_tracer,tracer_init_tracefs,"
    "event_trace_init"
)


def build_command_line(spec: MachineSpec, own: str) -> str:
    """Return the command line of a guest's kernel; ``own`` is the part of its hypervisor.

    The agent's own part comes last, since it may hold ``--``.
    """
    loudness = "" if spec.boot_log else " quiet"
    port = " slipway.port=ttyS1" if spec.serial_port else ""
    return f"{COMMON} {own}{loudness}{port} {spec.kernel_arguments}"
