"""Trial of a fork for ``slipway doctor``, on hosts that refuse a step of it.

A filter of system calls stands for the host: containers have such filters, and the kernel answers
with the same numbers where its configuration or Yama refuses.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from slipway.jail import call_filter as bpf
from slipway.machine.fork_trial import try_fork
from support.commands import PATIENCE

# Numbers of x86_64 and aarch64.
PTRACE, CLONE, PRCTL = (
    {"x86_64": x86_64, "aarch64": aarch64}[os.uname().machine]
    for x86_64, aarch64 in ((101, 117), (56, 220), (157, 167))
)
SEIZE, INTERRUPT, GET_RSEQ_CONFIGURATION = 0x4206, 0x4207, 0x420F
SET_SECCOMP = 22
KEY = 0x5EED  # the last argument of the fork itself
ERRNO = bpf.EPERM & ~errno.EPERM

IN_CHILD = """
import sys
from slipway.machine.fork_trial import try_fork
from slipway.jail import call_filter, privileges
from slipway._util.libc import libc
libc.prctl(privileges.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
call_filter.install(bytes.fromhex(sys.argv[1]), "the test")
print(try_fork())
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """Answer of a host to one system call whose argument has a value."""

    call: int
    argument: int
    value: int
    verdict: int

    def build_filter(self) -> bytes:
        """Return the filter that gives the answer, and allows all else."""
        return bpf.pack(
            [
                (bpf.LOAD, 0, 0, bpf.NUMBER_OFFSET),
                (bpf.JUMP_EQUAL, 0, 3, self.call),
                (bpf.LOAD, 0, 0, bpf.ARGUMENTS_OFFSET + 8 * self.argument),
                (bpf.JUMP_EQUAL, 0, 1, self.value),
                (bpf.RETURN, 0, 0, self.verdict),
                (bpf.RETURN, 0, 0, bpf.ALLOWED),
            ]
        )


def try_on_host(rule: Rule) -> str:
    """Return what the trial says on a host with ``rule``."""
    command = [sys.executable, "-c", IN_CHILD, rule.build_filter().hex()]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return finished.stdout.strip()


def test_host_that_lets_processes_be_forked_has_no_complaint() -> None:
    assert try_fork() == ""


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        pytest.param(
            Rule(PTRACE, 0, SEIZE, ERRNO | errno.EPERM),
            "ptrace SEIZE: Operation not permitted",
            id="Yama, or a container's filter",
        ),
        pytest.param(
            Rule(PTRACE, 0, SEIZE, ERRNO | errno.ENOSYS),
            "ptrace SEIZE: Function not implemented",
            id="no ptrace",
        ),
        pytest.param(
            Rule(PTRACE, 0, INTERRUPT, ERRNO | errno.EIO),
            "ptrace INTERRUPT: Input/output error",
            id="an emulated ptrace",
        ),
        pytest.param(
            Rule(PTRACE, 0, GET_RSEQ_CONFIGURATION, ERRNO | errno.EIO),
            "ptrace GET_RSEQ_CONFIGURATION: Input/output error",
            id="a kernel before 5.13",
        ),
        pytest.param(
            Rule(PRCTL, 0, SET_SECCOMP, ERRNO | errno.EINVAL),
            "cannot be confined: Invalid argument",
            id="no filters",
        ),
        pytest.param(
            Rule(CLONE, 5, KEY, ERRNO | errno.EPERM),
            "clone in another process: Operation not permitted",
            id="no fork",
        ),
        pytest.param(
            Rule(CLONE, 5, KEY, ERRNO | errno.EAGAIN),
            "clone in another process: Resource temporarily unavailable",
            id="no room for a process",
        ),
        pytest.param(Rule(PTRACE, 0, SEIZE, bpf.KILL), "no answer", id="death by ptrace"),
    ],
)
def test_refusal_of_the_host_is_reported(rule: Rule, words: str) -> None:
    assert words in try_on_host(rule)


def test_host_on_which_no_process_starts_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")

    assert "No such file" in try_fork()
