"""Part of the kernel's command line that all machines share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway.machine.gateway import addresses
from slipway.machine.model import PortKind

if TYPE_CHECKING:
    from slipway.machine.model import MachineSpec


def _format_address(address: bytes) -> str:
    return ".".join(map(str, address))


# The root is a ramfs: a tmpfs would be limited to half of the memory, and the kernel would boot
# with the rest of the files missing. Mitigations protect programs of one guest from each other, and
# a guest has a single user. The agent gives napi_tx to the module of Debian's kernel
# (kernel_modules.py), and a built-in driver takes it from here. Preparations for tracing take a
# sixth of the kernel's start, and tracing is not used; a kernel without one of these functions
# ignores its name.
COMMON = (
    "rootfstype=ramfs panic=-1 mitigations=off init_on_alloc=0"
    " cryptomgr.notests random.trust_cpu=on virtio_net.napi_tx=0"
    " initcall_blacklist=trace_eval_init,init_kprobe_trace,init_blk_tracer,tracer_init_tracefs,"
    "event_trace_init"
)

_TCP_PORT = (
    f"tcp,{_format_address(addresses.GUEST)},{addresses.PREFIX_BITS},"
    f"{_format_address(addresses.GATEWAY)},{addresses.GATEWAY_MAC.hex(':')},{addresses.MTU}"
)


def build_command_line(
    spec: MachineSpec, own: str, *, console: str = "ttyS0", serial: str = "ttyS1"
) -> str:
    """Return the command line of a guest's kernel; ``own`` is the part of its hypervisor.

    ``console`` and ``serial`` are the kernel's names of the UARTs for its messages and for the
    agent. The agent's own part comes last, since it may hold ``--``.
    """
    loudness = "" if spec.boot_log else " quiet"
    # With a virtio console, the agent finds it.
    ports = {
        PortKind.AUTO: f"auto,{serial}",
        PortKind.VIRTIO: "",
        PortKind.SERIAL: serial,
        PortKind.TCP: _TCP_PORT,
    }
    port = f" slipway.port={ports[spec.port]}" if ports[spec.port] else ""
    return f"console={console} {COMMON} {own}{loudness}{port} {spec.kernel_arguments}"
