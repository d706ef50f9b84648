"""Filter of the gateway's system calls, on each architecture; the processes are in integration."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from slipway.machine.gateway.confine import build_filter
from support.call_filters import AARCH64, ALLOW, ARM, I386, KILL, REFUSED, UNKNOWN, X86_64
from support.call_filters import judge_call as judge

if TYPE_CHECKING:
    from collections.abc import Mapping

PROCESS = 4711
ARCHITECTURES = {"x86_64": X86_64, "aarch64": AARCH64}
# Each call with its numbers on x86-64 and aarch64; None where an architecture lacks it.
MADE = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "epoll_ctl": (233, 21),
    "accept4": (288, 242),
    "connect": (42, 203),
    "shutdown": (48, 210),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    "close": (3, 57),
    "poll": (7, None),
    "ppoll": (None, 73),
    "bind": (49, 200),
    "sendmmsg": (307, 269),
    "recvmsg": (47, 212),
    "newfstatat": (262, 79),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "exit_group": (231, 94),
}
NEVER_MADE = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "listen": (50, 201),
    "socketpair": (53, 199),
    "dup": (32, 23),
    "memfd_create": (319, 279),
    "unlinkat": (263, 35),
    "mkdirat": (258, 34),
    "renameat2": (316, 276),
    "fchmodat": (268, 53),
    "kill": (62, 129),
    "tkill": (200, 130),
    "ptrace": (101, 117),
    "process_vm_writev": (311, 271),
    "prctl": (157, 167),
    "setuid": (105, 146),
    "unshare": (272, 97),
    "mount": (165, 40),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
}
FORK_FLAGS, THREAD_FLAGS = 0x01200011, 0x003D0F00


def build(machine: str) -> bytes:
    code = build_filter(machine, PROCESS)
    assert code is not None
    return code


def find_numbers(
    calls: Mapping[str, tuple[int | None, int | None]], machine: str
) -> dict[str, int]:
    column = list(ARCHITECTURES).index(machine)
    numbers = {name: pair[column] for name, pair in calls.items()}
    return {name: number for name, number in numbers.items() if number is not None}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_of_a_gateway_are_allowed(machine: str) -> None:
    code, architecture = build(machine), ARCHITECTURES[machine]
    numbers = find_numbers(MADE, machine)

    verdicts = {name: judge(code, architecture, number) for name, number in numbers.items()}

    assert verdicts == dict.fromkeys(numbers, ALLOW)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_that_a_gateway_never_makes_are_refused(machine: str) -> None:
    code, architecture = build(machine), ARCHITECTURES[machine]
    numbers = find_numbers(NEVER_MADE, machine)

    verdicts = {name: judge(code, architecture, number) for name, number in numbers.items()}

    assert verdicts == dict.fromkeys(numbers, REFUSED)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_few_numbers_are_allowed_and_newer_ones_do_not_exist(machine: str) -> None:
    code, architecture = build(machine), ARCHITECTURES[machine]

    verdicts = [judge(code, architecture, number) for number in range(435)]

    assert verdicts.count(ALLOW) <= 55
    assert set(verdicts) == {ALLOW, REFUSED}
    assert judge(code, architecture, 435) == UNKNOWN


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize("architecture", [X86_64, I386, AARCH64, ARM, 0])
def test_calls_of_another_architecture_kill(machine: str, architecture: int) -> None:
    verdict = judge(build(machine), architecture, 0xFFFF)

    assert verdict == (UNKNOWN if architecture == ARCHITECTURES[machine] else KILL)


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 41), ("aarch64", 198)])
def test_sockets_are_of_the_internet_and_of_the_kernels_routes(machine: str, number: int) -> None:
    code, architecture = build(machine), ARCHITECTURES[machine]
    allowed = [family for family in range(46) if judge(code, architecture, number, family) == ALLOW]

    assert allowed == sorted([socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK])


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 257), ("aarch64", 56)])
@pytest.mark.parametrize("flags", [0o1, 0o2, 0o100, 0o1000, 0o2001, 0o20200002])
def test_files_are_opened_for_reading_only(machine: str, number: int, flags: int) -> None:
    code, architecture = build(machine), ARCHITECTURES[machine]

    assert judge(code, architecture, number, 0, 0, 0o2000000) == ALLOW
    assert judge(code, architecture, number, 0, 0, 0o2000000 | flags) == REFUSED


@pytest.mark.parametrize(
    ("machine", "mmap", "clone", "tgkill"), [("x86_64", 9, 56, 234), ("aarch64", 222, 220, 131)]
)
def test_memory_threads_and_signals_have_conditions(
    machine: str, mmap: int, clone: int, tgkill: int
) -> None:
    code, architecture = build(machine), ARCHITECTURES[machine]

    assert judge(code, architecture, mmap, 0, 4096, 3) == ALLOW
    assert judge(code, architecture, mmap, 0, 4096, 7) == REFUSED
    assert judge(code, architecture, clone, THREAD_FLAGS) == ALLOW
    assert judge(code, architecture, clone, FORK_FLAGS) == REFUSED
    assert judge(code, architecture, tgkill, PROCESS, 1, 10) == ALLOW
    assert judge(code, architecture, tgkill, PROCESS + 1, 1, 10) == REFUSED


@pytest.mark.parametrize("machine", ["i686", "riscv64", ""])
def test_architecture_without_a_table_has_no_filter(machine: str) -> None:
    assert build_filter(machine, PROCESS) is None
