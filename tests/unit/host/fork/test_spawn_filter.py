"""The filter of a program that will be forked, by an interpreter of ours."""

from __future__ import annotations

import pytest

from slipway.machine.fork import spawn_filter
from support.call_filters import AARCH64, ALLOW, ARM, I386, KILL, UNKNOWN, X86_64, judge_call

KEY = 0x1122_3344_5566_7788
ARCHITECTURES = {"x86_64": X86_64, "aarch64": AARCH64}
CLONE = {"x86_64": 56, "aarch64": 220}
EXECVE = {"x86_64": 59, "aarch64": 221}
# What glibc's pthread_create and fork give to clone.
THREAD, FORK = 0x003D0F00, 0x01200011


def judge(machine: str, number: int, *arguments: int, architecture: int = 0) -> int:
    """Return the verdict on a call of ``machine``."""
    code = spawn_filter.build_filter(machine, KEY)
    return judge_call(code, architecture or ARCHITECTURES[machine], number, *arguments)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_process_and_program_start_with_the_key(machine: str) -> None:
    assert judge(machine, CLONE[machine], FORK, 0, 0, 0, 0, KEY) == ALLOW
    assert judge(machine, EXECVE[machine], 1, 2, 3, 0, 0, KEY) == ALLOW


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize("key", [0, KEY ^ 1, KEY ^ 1 << 32, KEY ^ 1 << 63, KEY & 0xFFFFFFFF])
def test_no_process_and_no_program_starts_with_another_key(machine: str, key: int) -> None:
    assert judge(machine, CLONE[machine], FORK, 0, 0, 0, 0, key) == KILL
    assert judge(machine, EXECVE[machine], 1, 2, 3, 0, 0, key) == KILL


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_threads_and_all_else_need_no_key(machine: str) -> None:
    assert judge(machine, CLONE[machine], THREAD) == ALLOW
    assert [judge(machine, number) for number in (0, 1, 63, 157, 167, 202, 434)] == [ALLOW] * 7


def test_other_ways_to_a_process_are_closed() -> None:
    assert [judge("x86_64", number, 0, 0, 0, 0, 0, KEY) for number in (57, 58, 322)] == [KILL] * 3
    assert judge("aarch64", 281, 0, 0, 0, 0, 0, KEY) == KILL
    assert [judge(machine, 435) for machine in ARCHITECTURES] == [UNKNOWN] * 2


def test_calls_of_another_architecture_end_the_process() -> None:
    assert judge("x86_64", 1, architecture=I386) == KILL
    assert judge("x86_64", 0x40000000 | 1) == KILL
    assert judge("aarch64", 1, architecture=ARM) == KILL
