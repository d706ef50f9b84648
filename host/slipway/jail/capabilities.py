"""Capabilities of this process: capabilities(7), capget(2), prctl(2)."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import contextmanager
from enum import IntEnum

from slipway._util.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# include/uapi/linux/prctl.h
_PR_SET_KEEPCAPS = 8
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
# include/uapi/linux/securebits.h: NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE with their
# locks. No program that root starts gets a capability, and no change of the user id adds one.
_SECUREBITS = 0b11 | 0b1100 | 0b11000000
# include/uapi/linux/capability.h: struct __user_cap_header_struct is version and pid; twice
# struct __user_cap_data_struct, effective, permitted and inheritable, follows.
_HEADER = struct.pack("=Ii", 0x20080522, 0)
_DATA = struct.Struct("=6I")
# More than any kernel knows: the first unknown one ends the loop.
_MAX_CAPABILITIES = 64


class LinuxCapability(IntEnum):
    """Capabilities by which a step may succeed; include/uapi/linux/capability.h."""

    SETGID = 6
    SETUID = 7
    SYS_PTRACE = 19
    SYS_ADMIN = 21


def has_capability(capability: LinuxCapability) -> bool:
    """Tell if ``capability`` is effective."""
    data = _read()
    return bool(data[3 * (capability // 32)] >> capability % 32 & 1)


@contextmanager
def keep_all() -> Iterator[None]:
    """Keep all permitted capabilities across a change of the user id, and the files of /proc.

    Raises:
        OSError: the kernel refuses.
    """
    _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    yield
    low, high = _read()[1], _read()[4]
    _check(libc.capset(_HEADER, _DATA.pack(low, low, 0, high, high, 0)))
    _check(libc.prctl(_PR_SET_KEEPCAPS, 0, 0, 0, 0))
    # The change has given the files of this process in /proc to root.
    _check(libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


def drop_all() -> None:
    """Drop all capabilities for good: this process and its programs never have one again.

    Steps for which a capability is missing already are left out. The parent-death signal stays, see
    prctl(2).

    Raises:
        OSError: the kernel refuses to drop those that the process has.
    """
    for number in range(_MAX_CAPABILITIES):
        if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
            break
    libc.prctl(_PR_SET_SECUREBITS, _SECUREBITS, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _check(libc.capset(_HEADER, bytes(_DATA.size)))


def build_empty_set() -> tuple[bytes, bytes]:
    """Return the two arguments of capset(2) that drop all capabilities of a process."""
    return _HEADER, bytes(_DATA.size)


def _read() -> tuple[int, ...]:
    """Return effective, permitted and inheritable, the lower half before the upper one."""
    data = ctypes.create_string_buffer(_DATA.size)
    _check(libc.capget(_HEADER, data))
    return _DATA.unpack(data.raw)


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
