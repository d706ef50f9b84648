"""Hypervisors by name, and the choice among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._util.errors import InputError
from slipway_initramfs.architectures import machine_architecture

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.machine.model import Hypervisor

# The best comes first.
HYPERVISORS = ("kvm", "qemu")
_REQUESTED = "asked for"


def choose(name: str, state: Path | None = None, architecture: str = "auto") -> Hypervisor:
    """Return the hypervisor called ``name``, or for ``auto`` the best that this host can run.

    ``architecture`` is Debian's name of that of the guests, or ``auto`` for that of this host. The
    directory ``state`` keeps measurements of this host; without it each is repeated.

    Raises:
        InputError: a name is unknown, or the hypervisor has no guests of this architecture.
    """
    host = machine_architecture()
    wanted = host if architecture == "auto" else architecture
    if name == "auto" and wanted != host:
        return find_hypervisor("qemu", state, f"{wanted} is emulated on this {host} host", wanted)
    if name != "auto":
        return find_hypervisor(name, state, architecture=wanted)
    from slipway.vmm.kvm import usability

    usable, reason = usability.examine(state)
    return find_hypervisor("kvm" if usable else "qemu", state, f"KVM: {reason}")


def find_hypervisor(
    name: str, state: Path | None = None, reason: str = _REQUESTED, architecture: str = ""
) -> Hypervisor:
    """Return the hypervisor called ``name``, chosen for ``reason``; see :func:`choose`.

    An empty ``architecture`` is that of this host.

    Raises:
        InputError: ``name`` is unknown, or the hypervisor has no guests of this architecture.
    """
    if name == "kvm":
        from slipway.machine.kvm_hypervisor import KvmHypervisor

        if architecture not in ("", host := machine_architecture()):
            raise InputError(
                f"machine kvm: KVM of this host runs {host}, not {architecture}",
                f"Use machine qemu, which emulates {architecture}.",
            )
        return KvmHypervisor(state, reason)
    if name == "qemu":
        from slipway.machine.qemu_hypervisor import QemuHypervisor

        return QemuHypervisor(state, reason, architecture)
    known = ", ".join(["auto", *HYPERVISORS])
    raise InputError(
        f"unknown hypervisor {name!r:.80}; use one of: {known}",
        "auto takes the first that this host can run.",
    )
