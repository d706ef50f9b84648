"""Filter of system calls by which a process starts no other, except with a key.

QEMU's own filter (``-sandbox spawn=deny``) cannot let a single caller through. This filter takes
its place where a tracer makes the process fork. It allows clone(2) of a process, and the one
execve(2) by which the program is started, only with a key in the last argument: neither call uses
that, and the kernel shows a filter to nobody without CAP_SYS_ADMIN. A wrong key ends the process,
so that it has one guess in 2**64. Forks inherit the filter.
"""

from __future__ import annotations

from slipway.jail import call_filter as bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway.jail.call_filter import Instruction

KEY_BITS = 64
# The last of six arguments has the key.
KEY_ARGUMENT = 5
# arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h
_CLONE: Mapping[str, int] = {"x86_64": 56, "aarch64": 220}
EXECVE: Mapping[str, int] = {"x86_64": 59, "aarch64": 221}
# fork, vfork, execveat
_REFUSED: Mapping[str, tuple[int, ...]] = {"x86_64": (57, 58, 322), "aarch64": (281,)}
_CLONE3 = 435
# Numbers of the x32 ABI, whose calls are others; on aarch64 no call has such a number.
_FIRST_X32 = 0x40000000


def build_filter(machine: str, key: int) -> bytes:
    """Return the filter for a ``machine`` (uname): ``x86_64`` or ``aarch64``."""
    keyed = _build_key_check(key)
    kill = (bpf.RETURN, 0, 0, bpf.KILL)
    thread = [
        (bpf.LOAD, 0, 0, bpf.ARGUMENTS_OFFSET),
        (bpf.AND, 0, 0, bpf.CLONE_THREAD),
        (bpf.JUMP_EQUAL, 0, 1, bpf.CLONE_THREAD),
        (bpf.RETURN, 0, 0, bpf.ALLOWED),
    ]
    code: list[Instruction] = [
        (bpf.LOAD, 0, 0, bpf.ARCHITECTURE_OFFSET),
        (bpf.JUMP_EQUAL, 1, 0, bpf.AUDIT[machine]),
        kill,
        (bpf.LOAD, 0, 0, bpf.NUMBER_OFFSET),
        (bpf.JUMP_GREATER_EQUAL, 0, 1, _FIRST_X32),
        kill,
    ]
    verdicts = {
        **{number: [kill] for number in _REFUSED[machine]},
        _CLONE3: [(bpf.RETURN, 0, 0, bpf.ENOSYS)],  # glibc uses clone then
        EXECVE[machine]: keyed,
        _CLONE[machine]: thread + keyed,
    }
    for number, verdict in verdicts.items():
        code += [(bpf.JUMP_EQUAL, 0, len(verdict), number), *verdict]
    return bpf.pack([*code, (bpf.RETURN, 0, 0, bpf.ALLOWED)])


def _build_key_check(key: int) -> list[Instruction]:
    offset = bpf.ARGUMENTS_OFFSET + 8 * KEY_ARGUMENT
    return [
        (bpf.LOAD, 0, 0, offset),
        (bpf.JUMP_EQUAL, 0, 3, key & bpf.ALL_BITS),
        (bpf.LOAD, 0, 0, offset + 4),
        (bpf.JUMP_EQUAL, 0, 1, key >> 32),
        (bpf.RETURN, 0, 0, bpf.ALLOWED),
        (bpf.RETURN, 0, 0, bpf.KILL),
    ]
