"""Forks of a process with threads, made by its zygote; a small program stands for QEMU.

``make forks`` makes a thousand of them; here are a few.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from slipway.vmm.process import control
from support.threaded_program import LIMIT, ZygoteRig
from support.waiting import block_until

FORKS = int(os.environ.get("SLIPWAY_TEST_FORKS", "20"))

# It computes for minutes without Python's lock: a thread that waits for the lock is at rest.
SPIN = """
import hashlib
spin = lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
threading.Thread(target=spin, daemon=True).start()
"""


def wait_processor_time(process: int, seconds: float) -> None:
    """Wait until a process has used ``seconds`` more of the processor."""
    program = psutil.Process(process)
    end = program.cpu_times().user + seconds
    block_until(lambda: program.cpu_times().user >= end, "the process uses the processor", LIMIT)


def wait_end(pidfd: int) -> None:
    """Wait until a process has ended."""
    ended, _, _ = select.select([pidfd], [], [], LIMIT)
    assert ended, "the process ends"


def wait_no_writer(pipe: int) -> None:
    """Wait until no process has the other end of ``pipe``."""
    while True:
        ready, _, _ = select.select([pipe], [], [], LIMIT)
        assert ready, "all processes that have the pipe end"
        if not os.read(pipe, 4096):
            return


def list_descriptors(process: int) -> list[str]:
    """Return the kinds of files that a process has open, sorted."""
    links = [path.readlink() for path in Path(f"/proc/{process}/fd").iterdir()]
    return sorted(str(link).partition(":")[0] for link in links)


def test_fork_goes_on_where_the_program_was_stopped_with_all_its_threads() -> None:
    with ZygoteRig() as rig:
        original = rig.program.ask(5)
        assert rig.freeze()[0] == control.RUNNING
        one, other = rig.fork(), rig.fork()

        answers = [one.ask(7), one.ask(8), other.ask(9), one.ask(1)]
        threads = [psutil.Process(fork.process).num_threads() for fork in (one, other)]
        one.close()
        other.close()

    assert original[1:] == (1, 10)
    assert answers == [
        (one.process, 2, 14),
        (one.process, 3, 16),
        (other.process, 2, 18),
        (one.process, 4, 2),
    ]
    assert threads == [4, 4]


@pytest.mark.timeout(60 + FORKS)
def test_many_forks_leave_nothing() -> None:
    with ZygoteRig() as rig:
        assert rig.freeze()[0] == control.RUNNING
        before = list_descriptors(rig.zygote.pid), list_descriptors(rig.program.process)
        for _ in range(FORKS):
            fork = rig.fork()
            kinds = list_descriptors(fork.process)
            assert fork.ask(3) == (fork.process, 1, 6)
            fork.close()
            assert rig.receive()[:2] == (
                control.EXITED,
                {"process": str(fork.process), "code": "0"},
            )
        after = list_descriptors(rig.zygote.pid), list_descriptors(rig.program.process)
        children = psutil.Process(rig.zygote.pid).children()

    assert after == before
    # All that the program has, but the door.
    assert sorted([*kinds, "socket"]) == before[1]
    assert [child.pid for child in children] == [rig.program.process]


def test_forks_at_once_are_made_one_after_the_other() -> None:
    with ZygoteRig() as rig:
        assert rig.freeze()[0] == control.RUNNING
        forks = [rig.fork() for _ in range(5)]

        answers = [fork.ask(number) for number, fork in enumerate(forks)]
        for fork in forks:
            fork.close()

    assert answers == [(fork.process, 1, 2 * n) for n, fork in enumerate(forks)]


def test_forks_die_with_their_zygote_however_that_ends() -> None:
    with ZygoteRig() as rig:
        assert rig.freeze()[0] == control.RUNNING
        forks = [rig.fork() for _ in range(3)]
        os.kill(rig.zygote.pid, signal.SIGKILL)

        for process in (*forks, rig.program):
            wait_end(process.pidfd)
        for fork in forks:
            fork.close()


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.002, 0.004, 0.008, 0.016])
def test_zygote_that_is_killed_while_it_forks_leaves_nothing(delay: float) -> None:
    with ZygoteRig() as rig:
        assert rig.freeze()[0] == control.RUNNING
        ours, theirs = os.pipe()
        rig.request([theirs, theirs])
        time.sleep(delay)
        group = {child.pid for child in psutil.Process(rig.zygote.pid).children()}
        rig.zygote.kill()
        rig.zygote.wait()

        wait_end(rig.program.pidfd)
        os.close(theirs)
        # A fork has the pipe, and may complain there that it is no socket.
        wait_no_writer(ours)
        os.close(ours)

    assert group


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.002, 0.004, 0.008])
def test_program_that_is_killed_while_it_is_forked_is_reported(delay: float) -> None:
    with ZygoteRig() as rig:
        assert rig.freeze()[0] == control.RUNNING
        ours, theirs = os.pipe()
        rig.request([theirs, theirs])
        time.sleep(delay)
        os.kill(rig.program.process, signal.SIGKILL)

        verbs, ends = set(), {}
        program = str(rig.program.process)
        while program not in ends:
            verb, texts, descriptors = rig.receive()
            verbs.add(verb)
            if verb == control.EXITED:
                # A fork may end too: what it got is no socket.
                ends[texts["process"]] = texts["code"]
            for descriptor in descriptors:
                os.close(descriptor)
        os.close(ours)
        os.close(theirs)

    assert ends[program] == "-9"
    assert verbs <= {control.EXITED, control.SPAWNED, control.REFUSED}


def test_closed_zygote_ends_its_program_and_then_stays_for_the_forks() -> None:
    with ZygoteRig() as rig:
        assert rig.freeze()[0] == control.RUNNING
        fork = rig.fork()
        rig.channel.send(control.encode(control.CLOSE))
        wait_end(rig.program.pidfd)

        answer = fork.ask(4)
        fork.close()
        status = rig.zygote.wait(LIMIT)

    assert answer == (fork.process, 1, 8)
    assert status == 0


@pytest.mark.parametrize(
    ("preparation", "words"),
    [
        ("pipe = os.pipe()", "would share the descriptor"),
        ("import mmap; shared = mmap.mmap(-1, 4096)", "would share memory"),
    ],
)
def test_program_with_a_state_that_a_fork_cannot_have_is_refused(
    preparation: str, words: str
) -> None:
    with ZygoteRig(preparation) as rig:
        rig.program.ask(1)

        verb, texts = rig.freeze()

    assert verb == control.FAILED
    assert words in texts["message"]


def test_lack_of_descriptors_refuses_one_fork_and_not_the_next() -> None:
    with ZygoteRig() as rig:
        assert rig.freeze()[0] == control.RUNNING
        limits = resource.prlimit(rig.zygote.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(rig.zygote.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
        with open(os.devnull, "r+b") as file:  # noqa: PTH123
            rig.request([file.fileno()] * 2)
            verb, texts, _ = rig.receive()
        resource.prlimit(rig.zygote.pid, resource.RLIMIT_NOFILE, limits)

        fork = rig.fork()
        answer = fork.ask(4)
        fork.close()

    assert (verb, texts["message"]) == (
        control.REFUSED,
        "a clone cannot be started: Too many open files",
    )
    assert answer == (fork.process, 1, 8)


def test_program_that_never_waits_is_refused() -> None:
    with ZygoteRig(SPIN) as rig:
        rig.program.ask(1)
        wait_processor_time(rig.program.process, 0.2)

        verb, texts = rig.freeze()

    assert verb == control.REFUSED
    assert "did not come to rest" in texts["message"]


@pytest.mark.parametrize("forked", [False, True])
def test_program_and_its_forks_start_no_process(forked: bool) -> None:
    with ZygoteRig("number, int = int, lambda data: os.fork()") as rig, ExitStack() as closing:
        program = rig.program
        if forked:
            assert rig.freeze()[0] == control.RUNNING
            program = rig.fork()
            closing.callback(program.close)

        program.calls.send(b"1")
        wait_end(program.pidfd)
        verb, texts, _ = rig.receive()

    assert (verb, texts["code"]) == (control.EXITED, str(-signal.SIGSYS))
