"""Filter of system calls for a program that is not ours, such as QEMU.

What such a program calls differs between its versions and libraries, hence this is a list of
refusals: calls that reach other processes, files by names that it may change, the network, new
rights, or large parts of the kernel. They fail with EPERM, and calls that are newer than all such
programs with ENOSYS. Everything that the program needs from outside it inherits.

A start of a process ends the process, except with a key in the last argument of the call: the one
execve(2) by which the program is started has it, and so has a tracer that makes the process fork.
Neither call uses that argument, and the kernel shows a filter to nobody without CAP_SYS_ADMIN: the
program has one guess in 2**64. With the key, a tracer may also bind the life of a fork to its
parent, and drop the capabilities of a new user namespace. Forks inherit the filter.
"""

from __future__ import annotations

import os
from enum import Enum

from slipway.jail import call_filter as bpf
from slipway.jail import call_numbers as numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slipway.jail.call_filter import Instruction

KEY_BITS = 64
# The last of six arguments has the key.
KEY_ARGUMENT = 5
# A program that forks by a tracer is the first process of its pid namespace there.
_FIRST_PROCESS = 1
# include/uapi/linux/prctl.h: PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP,
# PR_SET_SECCOMP, PR_CAPBSET_READ, PR_SET_TIMERSLACK, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS,
# PR_GET_TID_ADDRESS, PR_SET_VMA
_OPTIONS = (3, 15, 16, 21, 22, 23, 29, 38, 39, 40, 0x53564D41)
# include/uapi/asm-generic/ioctls.h: TIOCSTI writes to a terminal as if typed there.
_TIOCSTI = 0x5412

_ALLOW = (bpf.RETURN, 0, 0, bpf.ALLOWED)
_REFUSE = (bpf.RETURN, 0, 0, bpf.EPERM)
_KILL = (bpf.RETURN, 0, 0, bpf.KILL)
_UNKNOWN = (bpf.RETURN, 0, 0, bpf.ENOSYS)


class Writing(Enum):
    """Verdict on a program's open(2) of a file for reading and writing."""

    REFUSED = bpf.EPERM
    ALLOWED = bpf.ALLOWED
    # By the holder of the filter's listener (SECCOMP_RET_USER_NOTIF, include/uapi/linux/seccomp.h).
    ANSWERED = 0x7FC00000


def build_filter(machine: str, key: int, process: int, writing: Writing) -> bytes:
    """Return the filter for ``process`` on a ``machine`` (uname): ``x86_64`` or ``aarch64``."""
    checked = numbers.CHECKED[machine]
    verdicts: dict[int, list[Instruction]] = {
        checked["execve"]: _build_key_check(key, _KILL),
        checked["clone"]: [
            (bpf.LOAD, 0, 0, bpf.ARGUMENTS_OFFSET),
            (bpf.AND, 0, 0, bpf.CLONE_THREAD),
            (bpf.JUMP_EQUAL, 0, 1, bpf.CLONE_THREAD),
            _ALLOW,
            *_build_key_check(key, _KILL),
        ],
        checked["prctl"]: [*_allow_first(_OPTIONS), *_build_key_check(key, _REFUSE)],
        checked["capset"]: _build_key_check(key, _REFUSE),
        checked["kill"]: [*_allow_first((process, _FIRST_PROCESS)), _REFUSE],
        checked["tgkill"]: [*_allow_first((process, _FIRST_PROCESS)), _REFUSE],
        checked["openat"]: _judge_open(2, writing),
        checked["ioctl"]: [
            (bpf.LOAD, 0, 0, bpf.ARGUMENTS_OFFSET + 8),
            (bpf.JUMP_EQUAL, 0, 1, _TIOCSTI),
            _REFUSE,
            _ALLOW,
        ],
        **{number: [_KILL] for number in numbers.KILLED[machine].values()},
        **{number: [_REFUSE] for number in numbers.REFUSED[machine].values()},
        **{number: [_ALLOW] for number in numbers.NEW_ALLOWED.values()},
    }
    if "open" in checked:
        verdicts[checked["open"]] = _judge_open(1, writing)
    code: list[Instruction] = [
        (bpf.LOAD, 0, 0, bpf.ARCHITECTURE_OFFSET),
        (bpf.JUMP_EQUAL, 1, 0, bpf.AUDIT[machine]),
        _KILL,
        (bpf.LOAD, 0, 0, bpf.NUMBER_OFFSET),
        (bpf.JUMP_GREATER_EQUAL, 0, 1, numbers.FIRST_X32),
        _KILL,
    ]
    for number, verdict in verdicts.items():
        code += [(bpf.JUMP_EQUAL, 0, len(verdict), number), *verdict]
    code += [(bpf.JUMP_GREATER_EQUAL, 0, 1, numbers.FIRST_NEW), _UNKNOWN, _ALLOW]
    return bpf.pack(code)


def _allow_first(values: tuple[int, ...]) -> list[Instruction]:
    """Return code that allows the call for some values of the first argument's lower half."""
    code: list[Instruction] = [(bpf.LOAD, 0, 0, bpf.ARGUMENTS_OFFSET)]
    for value in values:
        code += [(bpf.JUMP_EQUAL, 0, 1, value), _ALLOW]
    return code


def _judge_open(argument: int, writing: Writing) -> list[Instruction]:
    """Return code that judges the flags of open(2), which are ``argument``."""
    return [
        (bpf.LOAD, 0, 0, bpf.ARGUMENTS_OFFSET + 8 * argument),
        (bpf.AND, 0, 0, os.O_ACCMODE),
        (bpf.JUMP_EQUAL, 0, 1, os.O_RDONLY),
        _ALLOW,
        (bpf.JUMP_EQUAL, 0, 1, os.O_RDWR),
        (bpf.RETURN, 0, 0, writing.value),
        _REFUSE,
    ]


def _build_key_check(key: int, otherwise: Instruction) -> list[Instruction]:
    offset = bpf.ARGUMENTS_OFFSET + 8 * KEY_ARGUMENT
    return [
        (bpf.LOAD, 0, 0, offset),
        (bpf.JUMP_EQUAL, 0, 3, key & bpf.ALL_BITS),
        (bpf.LOAD, 0, 0, offset + 4),
        (bpf.JUMP_EQUAL, 0, 1, key >> 32),
        _ALLOW,
        otherwise,
    ]
