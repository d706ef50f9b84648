"""Hypervisors by name, and the choice among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._util.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from slipway.machine.model import Hypervisor

# The best comes first.
HYPERVISORS = ("kvm", "qemu")
_REQUESTED = "asked for"


def choose(name: str, state: Path | None = None) -> Hypervisor:
    """Return the hypervisor called ``name``, or for ``auto`` the best that this host can run.

    The directory ``state`` keeps measurements of this host; without it each is repeated.

    Raises:
        InputError: ``name`` is unknown.
    """
    if name != "auto":
        return find_hypervisor(name, state)
    from slipway.vmm.kvm import usability

    usable, reason = usability.examine(state)
    return find_hypervisor("kvm" if usable else "qemu", state, f"KVM: {reason}")


def find_hypervisor(name: str, state: Path | None = None, reason: str = _REQUESTED) -> Hypervisor:
    """Return the hypervisor called ``name``, chosen for ``reason``; see :func:`choose`.

    Raises:
        InputError: ``name`` is unknown.
    """
    if name == "kvm":
        from slipway.machine.kvm_hypervisor import KvmHypervisor

        return KvmHypervisor(state, reason)
    if name == "qemu":
        from slipway.machine.qemu_hypervisor import QemuHypervisor

        return QemuHypervisor(state, reason)
    known = ", ".join(["auto", *HYPERVISORS])
    raise InputError(
        f"unknown hypervisor {name!r:.80}; use one of: {known}",
        "auto takes the first that this host can run.",
    )
