"""Kernel modules of a directory, inserted in the order of their names."""

from __future__ import annotations

import errno
import os

from slipway_agent import syscalls

# Written by ``slipway_initramfs.debian.kernel``. The names begin with numbers in loading order.
PORT_MODULES = "/.agent/modules"
NETWORK_MODULES = f"{PORT_MODULES}/network"
# Without napi_tx, virtio_net frees the frames that were sent when it sends the next, instead of at
# an interrupt for each. Those interrupts hold back a sender whose frames wait in the device; here
# the gateway's window does, and nothing but TCP goes beyond the gateway.
_PARAMETERS = {"virtio_net": "napi_tx=0"}


def load_modules(directory: str) -> list[str]:
    """Insert the modules of ``directory``, if it exists; return a line for each problem.

    A module that the kernel has already is no problem.
    """
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    problems = []
    for name in names:
        if not name.endswith(".ko"):
            continue
        module = name.removesuffix(".ko").partition("-")[2]
        try:
            syscalls.load_module(f"{directory}/{name}", _PARAMETERS.get(module, ""))
        except OSError as error:
            if error.errno != errno.EEXIST:
                problems.append(f"cannot load module {name}: {error.strerror}")
    return problems
