"""Threads of aarch64: registers, system calls and their restart.

Sources: arch/arm64/include/uapi/asm/ptrace.h (struct user_pt_regs), asm-generic/unistd.h, and
do_signal() in arch/arm64/kernel/signal.c.
"""

from __future__ import annotations

import struct

from slipway.machine.fork.call_names import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# include/uapi/linux/elf.h: NT_PRSTATUS, NT_PRFPREG, NT_ARM_TLS, NT_ARM_SVE, which holds the
# registers of NT_PRFPREG too and is missing without SVE.
GENERAL = 1
NOTES: tuple[int, ...] = (GENERAL, 2, 0x401, 0x405)
CALL_INSTRUCTION = b"\x01\x00\x00\xd4"  # svc #0

NUMBERS: Mapping[Call, int] = {
    Call.SIGNALFD4: 74,
    Call.EVENTFD2: 19,
    Call.EPOLL_CREATE1: 20,
    Call.EPOLL_CTL: 21,
    Call.DUP3: 24,
    Call.CLOSE: 57,
    Call.SET_ROBUST_LIST: 99,
    Call.GET_ROBUST_LIST: 100,
    Call.SIGALTSTACK: 132,
    Call.PRCTL: 167,
    Call.RECVMSG: 212,
    Call.CLONE: 220,
    Call.MMAP: 222,
    Call.MADVISE: 233,
    Call.RSEQ: 293,
}
# epoll_pwait, read, pselect6, ppoll, futex, nanosleep, clock_nanosleep, restart_syscall,
# rt_sigsuspend, rt_sigtimedwait, recvfrom, recvmsg, epoll_pwait2
WAITING = frozenset({22, 63, 72, 73, 98, 101, 115, 128, 133, 137, 207, 212, 441})

# x0 to x30, sp, pc, pstate
_STRUCT = struct.Struct("=34Q")
_X8, _PC = 8, 32
_ALL_ONES = 2**64 - 1
# epoll_pwait and a few others are never made again after a stop, but fail with EINTR (signal(7));
# the program counter stays behind the instruction.
_EINTR = 2**64 - 4


def find_interrupted_call(registers: bytes) -> int | None:
    """Return the number of the call at which the thread has stopped.

    Before a stop the kernel has set the program counter back to the instruction of an interrupted
    call. The caller checks that it is :data:`CALL_INSTRUCTION`.
    """
    return int(_STRUCT.unpack(registers)[_X8])


def get_call_address(registers: bytes) -> int:
    """Return the address of the instruction that made the interrupted call."""
    values = _STRUCT.unpack(registers)
    behind = len(CALL_INSTRUCTION) if values[0] == _EINTR else 0
    return int(values[_PC]) - behind


def prepare_restart(registers: bytes) -> bytes:
    """Return the registers, by which the interrupted call is made again."""
    return registers


def prepare_call(registers: bytes, address: int, number: int, arguments: tuple[int, ...]) -> bytes:
    """Return registers that make a call by the instruction at ``address``."""
    values = list(_STRUCT.unpack(registers))
    values[:6] = [value & _ALL_ONES for value in (*arguments, *[0] * 6)[:6]]
    values[_X8], values[_PC] = number, address
    return _STRUCT.pack(*values)


def read_result(registers: bytes) -> int:
    """Return the result of a call that is over; negative for an error."""
    (result,) = struct.unpack_from("=q", registers)
    return int(result)
