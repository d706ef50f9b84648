"""Machines: what boots a guest and gives a byte stream to the agent in it.

Everything above this seam is the same for every machine. A machine is started from a
:class:`MachineSpec` and then offers a transport, a console and its end; it never looks into the
bytes that it carries.
"""

from __future__ import annotations

from slipway._errors import InputError
from slipway.machine.model import Machine, MachineSpec, Transport
from slipway.machine.qemu import QemuMachine

__all__ = ["Machine", "MachineSpec", "Transport", "machine_class"]


_MACHINES: dict[str, type[Machine]] = {"qemu": QemuMachine}


def machine_class(name: str) -> type[Machine]:
    """The machine called ``name``, or the best that this host can run for ``auto``.

    Raises:
        InputError: there is no such machine.
    """
    if name == "auto":
        return QemuMachine
    try:
        return _MACHINES[name]
    except KeyError:
        known = ", ".join(["auto", *_MACHINES])
        raise InputError(f"there is no machine {name!r}", f"Use one of: {known}.") from None
