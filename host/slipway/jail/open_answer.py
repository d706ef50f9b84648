"""Answers to a program's calls of open(2), by another process: seccomp_unotify(2).

QEMU opens the file of a machine's memory for reading and writing, even where it only makes a
private copy. The process that has started it answers with a descriptor for reading: the file stays
as it is, whatever becomes of QEMU.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from contextlib import suppress

from slipway._util.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
_SECCOMP: Mapping[str, int] = {"x86_64": 317, "aarch64": 277}
# include/uapi/linux/seccomp.h
_SET_MODE_FILTER = 1
_FLAG_NEW_LISTENER = 1 << 3
_NOTIF_RECV, _NOTIF_SEND, _NOTIF_ADDFD = 0xC0502100, 0xC0182101, 0x40182103
_FLAG_CONTINUE = 1 << 0
_NOTIFICATION_BYTES = 80  # struct seccomp_notif: id, pid, flags, data
_ID = struct.Struct("=Q")
_RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, val, error, flags
_ADDFD = struct.Struct("=QIIII")  # struct seccomp_notif_addfd: id, flags, srcfd, newfd, its flags
# include/uapi/linux/filter.h: struct sock_fprog is the number of instructions and their address.
_PROGRAM = struct.Struct("@HP")
_INSTRUCTION_BYTES = 8
_CLOEXEC = os.O_CLOEXEC


def install_with_listener(code: bytes) -> int:
    """Restrict this process by the filter ``code``; return the descriptor for its questions.

    New privileges have to be ruled out before.

    Raises:
        OSError: the kernel refuses.
    """
    address = ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p).value
    program = _PROGRAM.pack(len(code) // _INSTRUCTION_BYTES, address)
    number = ctypes.c_long(_SECCOMP[os.uname().machine])
    descriptor = libc.syscall(
        number, ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(_FLAG_NEW_LISTENER), program
    )
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(descriptor)


def answer(listener: int, file: int) -> None:
    """Answer one question of a program by a copy of ``file``; a program that has ended gets none.

    On a kernel that cannot give the copy (before Linux 5.9), the program opens what it wanted.
    """
    question = bytearray(_NOTIFICATION_BYTES)
    with suppress(OSError):
        fcntl.ioctl(listener, _NOTIF_RECV, question)
        (number,) = _ID.unpack_from(question)
        try:
            made = fcntl.ioctl(listener, _NOTIF_ADDFD, _ADDFD.pack(number, 0, file, 0, _CLOEXEC))
            response = _RESPONSE.pack(number, made, 0, 0)
        except OSError:
            response = _RESPONSE.pack(number, 0, 0, _FLAG_CONTINUE)
        fcntl.ioctl(listener, _NOTIF_SEND, response)
