"""Kernel modules of a directory, inserted in the order of their names."""

from __future__ import annotations

import errno
import os

from slipway_agent import syscalls

# Written by ``slipway_initramfs.debian.kernel``. The names begin with numbers in loading order.
PORT_MODULES = "/.agent/modules"
NETWORK_MODULES = f"{PORT_MODULES}/network"


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
        try:
            syscalls.load_module(f"{directory}/{name}")
        except OSError as error:
            if error.errno != errno.EEXIST:
                problems.append(f"cannot load module {name}: {error.strerror}")
    return problems
