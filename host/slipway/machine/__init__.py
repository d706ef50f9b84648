"""Machines: what boots a guest and gives a byte stream to the agent in it.

Everything above this seam is the same for every machine. A machine is started from a
:class:`MachineSpec` and then offers a transport, a console and its end; it never looks into the
bytes that it carries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slipway._model.errors import InputError
from slipway.machine.model import Machine, MachineSpec, Snapshot, Template, Transport

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "MACHINES",
    "Machine",
    "MachineSpec",
    "Snapshot",
    "Template",
    "Transport",
    "choose",
    "find_machine",
]

MACHINES = ("kvm", "qemu")


def choose(name: str, state: Path | None = None) -> tuple[type[Machine], str]:
    """The machine called ``name``, or the best that this host can run for ``auto``, and why.

    What had to be measured for that is remembered in the directory ``state``.

    Raises:
        InputError: there is no such machine.
    """
    reason = "asked for"
    if name == "auto":
        from slipway.vmm.kvm import usability

        usable, found = usability.examine(state)
        name, reason = ("kvm" if usable else "qemu"), f"KVM: {found}"
    return find_machine(name), reason


def find_machine(name: str) -> type[Machine]:
    """The machine called ``name``.

    Raises:
        InputError: there is no such machine.
    """
    if name == "kvm":
        from slipway.machine.kvm import KvmMachine

        return KvmMachine
    if name == "qemu":
        from slipway.machine.qemu import QemuMachine

        return QemuMachine
    known = ", ".join(["auto", *MACHINES])
    raise InputError(
        f"machine is {name!r:.80}, and must be one of: {known}",
        "auto takes the first that can run.",
    )
