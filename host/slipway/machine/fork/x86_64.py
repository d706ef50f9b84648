"""Threads of x86-64: registers, system calls and their restart.

Sources: arch/x86/include/asm/user_64.h (struct user_regs_struct), syscall_64.tbl, and the calling
convention of system calls in syscall(2).
"""

from __future__ import annotations

import struct

from slipway.machine.fork.call_names import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# include/uapi/linux/elf.h: NT_PRSTATUS, NT_X86_XSTATE. The first has all that a call needs.
GENERAL = 1
NOTES: tuple[int, ...] = (GENERAL, 0x202)
CALL_INSTRUCTION = b"\x0f\x05"

NUMBERS: Mapping[Call, int] = {
    Call.CLOSE: 3,
    Call.MMAP: 9,
    Call.MADVISE: 28,
    Call.RECVMSG: 47,
    Call.CLONE: 56,
    Call.SIGALTSTACK: 131,
    Call.PRCTL: 157,
    Call.EPOLL_CTL: 233,
    Call.SET_ROBUST_LIST: 273,
    Call.GET_ROBUST_LIST: 274,
    Call.SIGNALFD4: 289,
    Call.EVENTFD2: 290,
    Call.EPOLL_CREATE1: 291,
    Call.DUP3: 292,
    Call.RSEQ: 334,
}
# read, poll, pause, nanosleep, recvfrom, recvmsg, rt_sigtimedwait, rt_sigsuspend, futex,
# restart_syscall, clock_nanosleep, epoll_wait, pselect6, ppoll, epoll_pwait, epoll_pwait2
WAITING = frozenset({0, 7, 34, 35, 45, 47, 128, 130, 202, 219, 230, 232, 270, 271, 281, 441})

_STRUCT = struct.Struct("=27Q")
_NAMES = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx"),
    *("rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base"),
    *("ds", "es", "fs", "gs"),
)
_INDEX = {name: index for index, name in enumerate(_NAMES)}
_ARGUMENTS = tuple(_INDEX[name] for name in ("rdi", "rsi", "rdx", "r10", "r8", "r9"))
_RAX, _ORIG_RAX, _RIP = _INDEX["rax"], _INDEX["orig_rax"], _INDEX["rip"]
_ALL_ONES = 2**64 - 1
# include/linux/errno.h: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK
_RESTARTS = frozenset(2**64 - number for number in (512, 513, 514, 516))
# epoll_wait and a few others are never made again after a stop, but fail with EINTR (signal(7)).
_EINTR = 2**64 - 4


def find_interrupted_call(registers: bytes) -> int | None:
    """Return the number of the call that the stop has interrupted; None outside of a call."""
    values = _STRUCT.unpack(registers)
    if values[_ORIG_RAX] != _ALL_ONES and values[_RAX] in _RESTARTS | {_EINTR}:
        return int(values[_ORIG_RAX])
    return None


def get_call_address(registers: bytes) -> int:
    """Return the address of the instruction that made the interrupted call."""
    return int(_STRUCT.unpack(registers)[_RIP]) - len(CALL_INSTRUCTION)


def prepare_restart(registers: bytes) -> bytes:
    """Return registers that make an interrupted call again, as the kernel does after a signal."""
    values = list(_STRUCT.unpack(registers))
    if values[_ORIG_RAX] != _ALL_ONES and values[_RAX] in _RESTARTS:
        values[_RAX] = values[_ORIG_RAX]
        values[_RIP] -= len(CALL_INSTRUCTION)
    values[_ORIG_RAX] = _ALL_ONES
    return _STRUCT.pack(*values)


def prepare_call(registers: bytes, address: int, number: int, arguments: tuple[int, ...]) -> bytes:
    """Return registers that make a call by the instruction at ``address``."""
    values = list(_STRUCT.unpack(registers))
    values[_RIP], values[_RAX], values[_ORIG_RAX] = address, number, _ALL_ONES
    for index, value in zip(_ARGUMENTS, (*arguments, *[0] * 6), strict=False):
        values[index] = value & _ALL_ONES
    return _STRUCT.pack(*values)


def read_result(registers: bytes) -> int:
    """Return the result of a call that is over; negative for an error."""
    (result,) = struct.unpack_from("=q", registers, 8 * _RAX)
    return int(result)
