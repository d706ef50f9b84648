"""Filters of system calls (seccomp with classic BPF), for processes that handle input of a guest.

A filter is an allow-list. All other calls fail with EPERM, and the process continues. To kill the
process would prevent no more: the call is refused either way. But Python and glibc try optional
calls (a lazy import, the source line of a traceback), other ones in each version, and a fault of
the process shall end in a report. Calls of another architecture, which never happen by accident,
kill the process. Calls as new as clone3, or newer, do not exist (ENOSYS): glibc then uses an older
one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from slipway._util.errors import HostError
from slipway._util.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Instruction = tuple[int, int, int, int]
    """struct sock_filter: code, jt, jf, k. A jump goes over so many instructions."""

# include/uapi/linux/prctl.h
_PR_SET_SECCOMP = 22
# include/uapi/linux/seccomp.h
_SECCOMP_MODE_FILTER = 2
KILL = 0x80000000
_ERRNO = 0x00050000
ALLOWED = 0x7FFF0000
# struct seccomp_data: nr, arch, instruction_pointer, args[6]. All architectures of the tables are
# little-endian, and the kernel uses only the lower half of each checked argument.
NUMBER_OFFSET, ARCHITECTURE_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16
# include/uapi/linux/bpf_common.h, filter.h
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: len, filter
LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GREATER_EQUAL = 0x35  # BPF_JMP | BPF_JGE | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

ALL_BITS = 0xFFFFFFFF
_PROT_EXEC = 4  # include/uapi/asm-generic/mman-common.h
# include/uapi/linux/sched.h: flags of pthread_create in glibc, and in musl (CLONE_DETACHED).
CLONE_THREAD = 0x00010000
_CLONE_FLAGS = 0x007D0F00
# include/uapi/linux/futex.h: FUTEX_WAIT, WAKE, REQUEUE (musl's conditions), WAIT_BITSET and
# WAKE_BITSET. Commands that inherit priorities are not needed.
_FUTEX_COMMANDS = (0, 1, 3, 9, 10)
_FUTEX_OPTIONS = 0x180  # FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME
# asm/unistd.h; from here on all architectures have the same numbers (Linux 5.3).
_CLONE3 = 435

EPERM = _ERRNO | errno.EPERM
ENOSYS = _ERRNO | errno.ENOSYS

# Architectures by their names in uname, as the kernel's audit numbers them: AUDIT_ARCH_X86_64 and
# AUDIT_ARCH_AARCH64, include/uapi/linux/audit.h
AUDIT: Mapping[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Calls of every such process, in order of frequency: arch/x86/entry/syscalls/syscall_64.tbl,
# include/uapi/asm-generic/unistd.h
_CALLS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {
        "write": 1,
        "read": 0,
        "writev": 20,
        "futex": 202,
        "epoll_wait": 232,
        "epoll_pwait": 281,  # epoll_wait in a libc that has only this
        "rt_sigreturn": 15,
        "clock_gettime": 228,  # if the vDSO cannot read the time
        "gettimeofday": 96,
        "clock_nanosleep": 230,
        "restart_syscall": 219,  # after SIGSTOP and SIGCONT
        # Memory
        "mmap": 9,
        "munmap": 11,
        "mremap": 25,
        "mprotect": 10,
        "madvise": 28,
        "brk": 12,
        # Threads: start, kick, end
        "clone": 56,
        "set_robust_list": 273,
        "rseq": 334,  # glibc 2.35 and later
        "gettid": 186,
        "getpid": 39,
        "tgkill": 234,
        "rt_sigaction": 13,
        "rt_sigprocmask": 14,
        "sched_yield": 24,
        "sched_getaffinity": 204,  # for malloc's number of arenas
        "exit": 60,
        # Ends, with glibc's last words
        "getrandom": 318,
        "close": 3,
        "exit_group": 231,
    },
    "aarch64": {
        "write": 64,
        "read": 63,
        "writev": 66,
        "futex": 98,
        "epoll_pwait": 22,
        "rt_sigreturn": 139,
        "clock_gettime": 113,
        "gettimeofday": 169,
        "clock_nanosleep": 115,
        "restart_syscall": 128,
        "mmap": 222,
        "munmap": 215,
        "mremap": 216,
        "mprotect": 226,
        "madvise": 233,
        "brk": 214,
        "clone": 220,
        "set_robust_list": 99,
        "rseq": 293,
        "gettid": 178,
        "getpid": 172,
        "tgkill": 131,
        "rt_sigaction": 134,
        "rt_sigprocmask": 135,
        "sched_yield": 124,
        "sched_getaffinity": 123,
        "exit": 93,
        "getrandom": 278,
        "close": 57,
        "exit_group": 94,
    },
}


def allow_if(argument: int, mask: int, values: Sequence[int]) -> list[Instruction]:
    """Return code that allows the call if the argument's bits in ``mask`` are in ``values``."""
    code = [(LOAD, 0, 0, ARGUMENTS_OFFSET + 8 * argument), (AND, 0, 0, mask)]
    for value in values:
        code += [(JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOWED)]
    return [*code, (RETURN, 0, 0, EPERM)]


def assemble(
    machine: str,
    calls: Mapping[str, int],
    conditions: Mapping[str, list[Instruction]],
    process: int,
) -> bytes:
    """Return the filter of ``process`` on a ``machine`` (uname): ``x86_64`` or ``aarch64``.

    ``calls`` are those that the process makes besides those of every such process, with the numbers
    of this architecture. Calls with ``conditions`` are allowed where these are met. For memory,
    locks, threads and signals the conditions are fixed: nothing executable, no priorities, no
    process, no signal to another process.
    """
    not_executable = allow_if(2, _PROT_EXEC, (0,))
    conditions = {
        "futex": allow_if(1, ALL_BITS & ~_FUTEX_OPTIONS, _FUTEX_COMMANDS),
        "mmap": not_executable,
        "mprotect": not_executable,
        "clone": allow_if(0, ALL_BITS & ~_CLONE_FLAGS | CLONE_THREAD, (CLONE_THREAD,)),
        "tgkill": allow_if(0, ALL_BITS, (process,)),
        **conditions,
    }
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_OFFSET),
        (JUMP_EQUAL, 1, 0, AUDIT[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_OFFSET),
    ]
    for name, number in {**calls, **_CALLS[machine]}.items():
        verdict = conditions.get(name, [(RETURN, 0, 0, ALLOWED)])
        code += [(JUMP_EQUAL, 0, len(verdict), number), *verdict]
    code += [
        (JUMP_GREATER_EQUAL, 0, 1, _CLONE3),
        (RETURN, 0, 0, ENOSYS),
        (RETURN, 0, 0, EPERM),
    ]
    return pack(code)


def pack(code: Sequence[Instruction]) -> bytes:
    """Return the bytes of a filter."""
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def install(code: bytes, name: str) -> None:
    """Restrict this thread, and those that it starts, by the filter ``code``.

    New privileges have to be ruled out before. ``name`` is that of the process in an error.

    Raises:
        HostError: the kernel has no filters.
    """
    address = ctypes.cast(ctypes.c_char_p(code), ctypes.c_void_p).value
    filter_program = _PROGRAM.pack(len(code) // _INSTRUCTION.size, address)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_program, 0, 0):
        raise HostError(
            f"{name} cannot be confined: {os.strerror(ctypes.get_errno())}",
            "A kernel with CONFIG_SECCOMP_FILTER is needed.",
        )
