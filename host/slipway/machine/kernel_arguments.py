"""The part of the kernel's command line that all machines share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slipway.machine.model import MachineSpec

# The root lives in a ramfs: a tmpfs would cap it at half the memory and boot on with the rest
# missing. Mitigations guard guests against each other's programs; there is only one here.
# What the kernel does to be traced is a sixth of its start, and nobody traces it here; a kernel
# that has not got one of these functions says nothing of it.
COMMON = (
    "console=ttyS0 rootfstype=ramfs panic=-1 mitigations=off init_on_alloc=0"
    " cryptomgr.notests random.trust_cpu=on"
    " initcall_blacklist=trace_eval_init,init_kprobe_trace,init_blk_tracer,tracer_init_tracefs,"
    "event_trace_init"
)


def build_command_line(spec: MachineSpec, machine: str) -> str:
    """The whole command line, with what ``machine`` needs in it.

    The agent's own part comes last, since it may hold ``--``.
    """
    loudness = "" if spec.boot_log else " quiet"
    port = " slipway.port=ttyS1" if spec.serial_port else ""
    return f"{COMMON} {machine}{loudness}{port} {spec.kernel_arguments}"
