"""Guests without an operating system for the processor of this host.

Both modules have the same names. To the checker of types they are those of x86-64.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

IS_ARM = os.uname().machine == "aarch64"

if TYPE_CHECKING or not IS_ARM:
    from support.machine_code import (
        CODE,
        COM1,
        COM2,
        CONSOLE_ARGUMENT,
        CRASH,
        DATA,
        DONE,
        KERNEL_END,
        MEMORY_HOLE,
        NOWHERE,
        OTHERS_CODE,
        OTHERS_DATA,
        PLACE,
        PORT_READ,
        PORT_WRITTEN,
        RAM,
        UNUSED_PORT,
        VIRTIO,
        Code,
        build_kernel,
        build_others_code,
        build_others_crash,
        write_tables,
    )
else:
    from support.machine_code_a64 import (
        CODE,
        COM1,
        COM2,
        CONSOLE_ARGUMENT,
        CRASH,
        DATA,
        DONE,
        KERNEL_END,
        MEMORY_HOLE,
        NOWHERE,
        OTHERS_CODE,
        OTHERS_DATA,
        PLACE,
        PORT_READ,
        PORT_WRITTEN,
        RAM,
        UNUSED_PORT,
        VIRTIO,
        build_kernel,
        build_others_code,
        build_others_crash,
        write_tables,
    )
    from support.machine_code_a64 import ArmCode as Code

__all__ = [
    "CODE",
    "COM1",
    "COM2",
    "CONSOLE_ARGUMENT",
    "CRASH",
    "DATA",
    "DONE",
    "IS_ARM",
    "KERNEL_END",
    "MEMORY_HOLE",
    "NOWHERE",
    "OTHERS_CODE",
    "OTHERS_DATA",
    "PLACE",
    "PORT_READ",
    "PORT_WRITTEN",
    "RAM",
    "UNUSED_PORT",
    "VIRTIO",
    "Code",
    "build_kernel",
    "build_others_code",
    "build_others_crash",
    "store_code",
    "write_tables",
]


def store_code(code: Code, address: int, data: bytes) -> Code:
    """Append stores of ``data`` at an address, in pieces of 8 bytes."""
    for at in range(0, len(data), 8):
        code.store(address + at, int.from_bytes(data[at : at + 8], "little"))
    return code
