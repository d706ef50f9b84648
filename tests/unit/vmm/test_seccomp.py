"""The filter of system calls as a function: what it says to each, by an interpreter of ours."""

from __future__ import annotations

import pytest

from slipway.vmm.kvm import aarch64, aarch64_state, abi, x86_64, x86_64_state
from slipway.vmm.process import seccomp
from support.call_filters import (
    AARCH64,
    ALLOW,
    ARM,
    I386,
    KILL,
    REFUSED,
    UNKNOWN,
    X86_64,
    judge_call,
)

PROCESS = 4711
X32 = 0x40000000
# What glibc's pthread_create and fork give to clone.
THREAD, FORK = 0x003D0F00, 0x01200011
NEW_USER, VFORK = 0x10000000, 0x00004000


def judge(number: int, *arguments: int, architecture: int = X86_64) -> int:
    """What the filter returns for a call."""
    code = seccomp.build_filter("x86_64", PROCESS)
    assert code is not None
    return judge_call(code, architecture, number, *arguments)


def judge_arm(number: int, *arguments: int, architecture: int = AARCH64) -> int:
    """Return the verdict of aarch64's filter on a call."""
    code = seccomp.build_filter("aarch64", PROCESS)
    assert code is not None
    return judge_call(code, architecture, number, *arguments)


@pytest.mark.parametrize(
    "number", [0, 1, 19, 20, 232, 281, 15, 219, 228, 230, 11, 28, 12, 60, 231, 39, 186]
)
def test_call_that_a_vmm_makes_is_allowed(number: int) -> None:
    assert judge(number) == ALLOW


@pytest.mark.parametrize(
    "number",
    [
        *(2, 257, 85, 82, 87, 83, 90),  # open, openat, creat, rename, unlink, mkdir, chmod
        *(59, 322, 57, 58),  # execve, execveat, fork, vfork
        *(41, 42, 44, 46, 47, 53),  # socket, connect, sendto, sendmsg, recvmsg, socketpair
        *(62, 200, 129, 101, 310, 311),  # kill, tkill, rt_sigqueueinfo, ptrace, process_vm_*
        *(
            32,
            33,
            72,
            290,
            319,
            250,
            321,
            425,
        ),  # dup, dup2, fcntl, eventfd2, memfd, keyctl, bpf, uring
        *(157, 105, 126, 165, 272, 298, 329),  # prctl, setuid, capset, mount, unshare, perf, pkey
        *(233, 302, 160, 334 + 1),  # epoll_ctl, prlimit64, setrlimit; one that nobody has
    ],
)
def test_call_that_no_vmm_makes_is_refused(number: int) -> None:
    assert judge(number) == REFUSED


def test_all_numbers_but_few_are_refused() -> None:
    allowed = [number for number in range(435) if judge(number) == ALLOW]

    assert len(allowed) <= 30
    assert {judge(number) for number in range(435)} == {ALLOW, REFUSED}


@pytest.mark.parametrize("number", [435, 437, 449, 1000, X32, X32 | 1, X32 | 16, 0xFFFFFFFF])
def test_call_that_is_newer_than_all_that_are_known_does_not_exist(number: int) -> None:
    assert judge(number) == UNKNOWN


@pytest.mark.parametrize("architecture", [I386, AARCH64, 0])
@pytest.mark.parametrize("number", [0, 1, 16, 59, 435])
def test_call_of_another_architecture_kills(architecture: int, number: int) -> None:
    assert judge(number, architecture=architecture) == KILL


@pytest.mark.parametrize("request_", [abi.KVM_RUN, *x86_64_state.READING])
def test_vcpu_may_be_run_and_looked_at(request_: int) -> None:
    assert judge(16, 9, request_) == ALLOW


@pytest.mark.parametrize(
    "request_",
    [
        *(abi.KVM_CREATE_VM, abi.KVM_CREATE_VCPU, abi.KVM_SET_USER_MEMORY_REGION, abi.KVM_IRQFD),
        *(x86_64.KVM_SET_SREGS, x86_64.KVM_SET_MSRS, 0xC00CAEE0),  # KVM_CREATE_DEVICE
        *(x86_64.KVM_SET_REGS, x86_64.KVM_SET_LAPIC, x86_64.KVM_SET_CPUID2),
        *(x86_64_state.KVM_SET_IRQCHIP, x86_64_state.KVM_SET_CLOCK, x86_64_state.KVM_SET_XSAVE),
        *(x86_64_state.KVM_SET_TSC_KHZ, x86_64_state.KVM_SET_VCPU_EVENTS),
        *(
            0x5401,
            0x5412,
            0x5421,
            0x8912,
            0x4008AF00,
            0,
        ),  # TCGETS, TIOCSTI, FIONBIO, SIOCGIFCONF, vhost
    ],
)
def test_nothing_else_may_be_asked_of_a_descriptor(request_: int) -> None:
    assert judge(16, 9, request_) == REFUSED


@pytest.mark.parametrize("number", [9, 10])
@pytest.mark.parametrize(("protection", "verdict"), [(0, ALLOW), (3, ALLOW), (4, REFUSED)])
def test_memory_is_never_executable(number: int, protection: int, verdict: int) -> None:
    assert judge(number, 0, 4096, protection) == verdict
    assert judge(number, 0, 4096, protection | 1) == verdict


@pytest.mark.parametrize("flags", [THREAD, THREAD | 0x400000, 0xFFFFFFFF << 32 | THREAD])
def test_thread_may_be_started(flags: int) -> None:
    assert judge(56, flags) == ALLOW


@pytest.mark.parametrize(
    "flags", [FORK, 0, 17, 0x4111, THREAD & ~0x10000, THREAD | NEW_USER, THREAD | VFORK]
)
def test_process_may_not(flags: int) -> None:
    assert judge(56, flags) == REFUSED


@pytest.mark.parametrize("process", [PROCESS + 1, 1, 0, 0xFFFFFFFF])
def test_signals_go_to_the_process_itself_only(process: int) -> None:
    assert judge(234, PROCESS, 12, 10) == ALLOW
    assert judge(234, process, 12, 10) == REFUSED


@pytest.mark.parametrize("option", [0, 0x80, 0x180])
def test_locks_inherit_no_priorities(option: int) -> None:
    allowed = [command for command in range(16) if judge(202, 0, command | option) == ALLOW]

    assert allowed == [0, 1, 3, 9, 10]


def test_argument_of_an_unconditional_call_changes_nothing() -> None:
    assert judge(1, *[(1 << 64) - 1] * 6) == ALLOW


# write, read, readv, writev, epoll_pwait, brk, munmap, exit_group
@pytest.mark.parametrize("number", [64, 63, 65, 66, 22, 214, 215, 94])
def test_call_that_a_vmm_makes_is_allowed_on_aarch64(number: int) -> None:
    assert judge_arm(number) == ALLOW


# openat, execve, socket, connect, kill, ptrace, eventfd2, dup3
@pytest.mark.parametrize("number", [56, 221, 198, 203, 129, 117, 19, 24])
def test_call_that_no_vmm_makes_is_refused_on_aarch64(number: int) -> None:
    assert judge_arm(number) == REFUSED


@pytest.mark.parametrize("request_", [abi.KVM_RUN, *aarch64_state.READING])
def test_vcpu_of_aarch64_may_be_run_and_looked_at(request_: int) -> None:
    assert judge_arm(29, 9, request_) == ALLOW


@pytest.mark.parametrize(
    "request_",
    [
        *(abi.KVM_CREATE_VM, abi.KVM_CREATE_VCPU, abi.KVM_CREATE_DEVICE, abi.KVM_IRQFD),
        *(aarch64.KVM_SET_ONE_REG, aarch64.KVM_ARM_VCPU_INIT, aarch64.KVM_SET_DEVICE_ATTR),
        *(aarch64_state.KVM_SET_MP_STATE, aarch64_state.KVM_SET_VCPU_EVENTS),
        *x86_64_state.READING[:3],
    ],
)
def test_vcpu_of_aarch64_may_not_be_changed(request_: int) -> None:
    assert judge_arm(29, 9, request_) == REFUSED


@pytest.mark.parametrize("architecture", [X86_64, ARM])
def test_call_of_another_architecture_kills_on_aarch64(architecture: int) -> None:
    assert judge_arm(64, architecture=architecture) == KILL


@pytest.mark.parametrize("machine", ["armv7l", "i686", "riscv64", ""])
def test_architecture_without_a_table_has_no_filter(machine: str) -> None:
    assert seccomp.build_filter(machine, PROCESS) is None
