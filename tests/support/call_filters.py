"""Interpreter of filters of system calls: the kernel's verdict on a call, without the call."""

from __future__ import annotations

import errno
import struct

# AUDIT_ARCH_X86_64, _I386, _AARCH64 and _ARM: include/uapi/linux/audit.h
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
REFUSED, UNKNOWN = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS


def judge_call(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Return the verdict of the filter ``code`` on a call of ``architecture``."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(*arguments, *[0] * 6)[:6])
    program = list(struct.iter_unpack("=HBBI", code))
    accumulator = at = 0
    while True:
        operation, if_true, if_false, operand = program[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x35:
                at += if_true if accumulator >= operand else if_false
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"no instruction of ours: {operation:#x}")
