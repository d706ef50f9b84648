"""Limits that need no root: end of the program, and output up to then."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slipway_protocol import messages as m
from support.agent import Story, job, python

if TYPE_CHECKING:
    from support.agent import Host

FOREVER = "import time; print('begun', flush=True); time.sleep(1000)"


def test_wall_time_keeps_the_output_so_far(host: Host) -> None:
    story = host.run(job(python(FOREVER, wall_ms=700)))

    done = story.one(m.PhaseDone)
    assert (done.verdict, done.signal) == (m.Verdict.TIMED_OUT, 9)
    assert done.detail == "the time limit of 0.7 s passed"
    assert story.stdout == b"begun\n"


def test_program_that_ignores_signals_is_ended(host: Host) -> None:
    source = f"import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]\n{FOREVER}"
    done = host.run(job(python(source, wall_ms=700))).one(m.PhaseDone)

    assert done.verdict is m.Verdict.TIMED_OUT


@pytest.mark.parametrize("children", [0, 3])
def test_cpu_time_of_all_processes_counts(host: Host, children: int) -> None:
    source = f"""
import os
for _ in range({children}):
    if os.fork() == 0:
        break
while True:
    pass
"""
    done = host.run(job(python(source, cpu_ms=300))).one(m.PhaseDone)

    assert done.verdict is m.Verdict.CPU_EXCEEDED
    assert done.detail == "the CPU time limit of 0.3 s was used up"
    assert done.usage.user_us + done.usage.system_us >= 300_000


def test_surplus_output_is_dropped_and_counted_without_credit(host: Host) -> None:
    source = "import os; os.write(2, b'e'); [os.write(1, b'x' * 1000) for _ in range(5000)]"
    host.start(job(python(source, output_bytes=10_000), window=10_000))
    messages, _ = host.until(m.JobDone)
    story = Story(messages)

    ends = {end.stream: (end.sent, end.dropped) for end in story.all(m.OutputEnd)}
    assert ends[m.Stream.STDOUT] == (10_000, 4_990_000)
    assert ends[m.Stream.STDERR] == (1, 0)
    assert story.stdout == b"x" * 10_000
    assert story.one(m.PhaseDone).verdict is m.Verdict.OK


@pytest.mark.parametrize(
    ("limit", "told"), [(10_000, "10000 bytes"), (10_240, "10 KiB"), (1 << 20, "1 MiB")]
)
def test_surplus_output_can_end_the_program(host: Host, limit: int, told: str) -> None:
    source = "import os\nwhile True: os.write(1, b'x' * 1000)"
    story = host.run(job(python(source, output_bytes=limit, kill_on_output=True)))

    assert story.stdout == b"x" * limit
    assert story.one(m.PhaseDone).verdict is m.Verdict.OUTPUT_EXCEEDED
    assert story.one(m.PhaseDone).detail == f"the output passed the limit of {told}"


def test_output_of_exactly_the_limit_is_no_surplus(host: Host) -> None:
    source = "import os; os.write(1, b'x' * 1000)"
    story = host.run(job(python(source, output_bytes=1000, kill_on_output=True)))

    assert story.one(m.PhaseDone).verdict is m.Verdict.OK
    assert {end.dropped for end in story.all(m.OutputEnd)} == {0}


@pytest.mark.bare
def test_file_size_and_open_files_are_limited(host: Host) -> None:
    source = """
import os
try:
    open("large", "wb").write(bytes(100_000))
except OSError as error:
    print(error.strerror)
try:
    [os.dup(1) for _ in range(100)]
except OSError as error:
    print(error.strerror)
"""
    story = host.run(job(python(source, file_bytes=50_000, open_files=32)))

    assert story.stdout == b"File too large\nToo many open files\n"


def test_limit_of_open_files_can_be_raised_to_the_hard_one(host: Host) -> None:
    source = """
import os, resource
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
print(len([os.dup(1) for _ in range(50)]))
"""
    story = host.run(job(python(source, open_files=64, soft_open_files=32)))

    assert story.stdout == b"32 64\n50\n"


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("os.write(2, b'NoMemory'); sys.exit(1)", "MEMORY_EXCEEDED"),
        ("os.write(2, b'NoMemory'); os.abort()", "MEMORY_EXCEEDED"),
        ("os.write(2, b'NoMemory'); os.write(2, b'x' * 10_000); os.abort()", "MEMORY_EXCEEDED"),
        ("os.write(2, b'NoMemory'); os.write(2, b'x' * 100_000); os.abort()", "SIGNALED"),
        ("os.write(2, b'NoMemory')", "OK"),
        ("print('NoMemory'); sys.exit(1)", "FAILED"),
        ("os.write(2, b'Memory'); sys.exit(1)", "FAILED"),
    ],
)
def test_last_message_of_a_runtime_decides_on_memory_exceeded(
    host: Host, source: str, verdict: str
) -> None:
    command = python(f"import os, sys; {source}")
    # Also where what it says is over the limit and dropped.
    command = replace(command, out_of_memory=("Other", "NoMemory"), limits=m.Limits(output_bytes=5))
    done = host.run(job(command)).one(m.PhaseDone)

    assert done.verdict is m.Verdict[verdict]
    assert ("NoMemory" in done.detail) == (verdict == "MEMORY_EXCEEDED")


def test_last_message_of_a_build_counts_too(host: Host) -> None:
    build = replace(python("raise MemoryError"), out_of_memory=("MemoryError",))
    done = host.run(job(python("print(1)"), build=build)).one(m.PhaseDone)

    assert (done.phase, done.verdict) == (m.Phase.BUILD, m.Verdict.MEMORY_EXCEEDED)


def test_cancel_ends_the_phase_and_skips_the_next(host: Host) -> None:
    host.start(job(python("print('never')"), build=python(FOREVER), outputs=["x"]))
    host.until(m.Output)
    host.send(m.Cancel(1))
    messages, _ = host.until(m.JobDone)
    story = Story(messages)

    assert story.one(m.PhaseDone).phase is m.Phase.BUILD
    assert story.one(m.PhaseDone).verdict is m.Verdict.CANCELLED
    assert story.one(m.FileMissing).reason == "the job was cancelled"


def test_cancel_before_the_start_ends_the_job(host: Host) -> None:
    host.send(job(python(FOREVER)), m.File(1, "x", 0o644, 10), m.Cancel(1))

    host.expect(m.JobDone)
    assert host.run(job(python("print(2)"), number=2)).stdout == b"2\n"


def test_signal_reaches_the_process_group(host: Host) -> None:
    source = """
import os, signal, time
child = os.fork()
signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
if child:
    print("begun", flush=True)
    os.waitpid(child, 0)
    time.sleep(0.1)
time.sleep(1000)
"""
    host.start(job(python(source)))
    host.until(m.Output)
    host.send(m.Signal(1, 10))
    _, done = host.until(m.PhaseDone)

    assert (done.verdict, done.code) == (m.Verdict.FAILED, 7)


def test_signal_without_effect_is_no_error(host: Host) -> None:
    host.start(job(python("print('begun', flush=True); import time; time.sleep(0.2)")))
    host.until(m.Output)
    host.send(m.Signal(1, 0), m.Signal(1, 64), m.Signal(9, 9))
    _, done = host.until(m.PhaseDone)

    assert done.verdict in (m.Verdict.OK, m.Verdict.SIGNALED)
    assert host.expect(m.JobDone) == m.JobDone(1)
