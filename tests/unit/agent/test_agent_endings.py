"""Ends of phases whose programs leave processes, output or files behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from slipway_protocol import messages as m
from support.agent import Story, job, python

if TYPE_CHECKING:
    from support.agent import Host

DAEMON = """
import os, time
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.write(writer, b"x")
        time.sleep(1000)
    os._exit(0)
os.read(reader, 1)
"""


def test_daemonised_grandchild_does_not_hold_the_phase(host: Host) -> None:
    story = host.run(job(python(DAEMON)))

    assert story.one(m.PhaseDone).verdict is m.Verdict.OK
    assert not psutil.pid_exists(int(story.stdout))


def test_no_process_outlives_its_phase(host: Host) -> None:
    source = "import os, time\nfor _ in range(20):\n  if os.fork() == 0: time.sleep(1000)"
    host.run(job(python(source)))

    assert psutil.Process(host.process.pid).children(recursive=True) == []


def test_orphans_that_end_first_are_reaped(host: Host) -> None:
    source = """
import os, time
for _ in range(50):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
time.sleep(0.2)
"""
    story = host.run(job(python(source)))

    assert story.one(m.PhaseDone).verdict is m.Verdict.OK
    assert psutil.Process(host.process.pid).children(recursive=True) == []


def test_output_in_the_pipe_at_the_end_is_not_lost(host: Host) -> None:
    source = "import os; os.write(1, b'x' * 60_000); os._exit(5)"
    host.start(job(python(source), window=1000))
    exited = host.until(m.Exited)[1]
    host.send(m.Credit(1, m.Stream.STDOUT, 100_000))
    before, end = host.until(m.OutputEnd)

    assert exited.code == 5
    if end.stream is m.Stream.STDERR:
        more, end = host.until(m.OutputEnd)
        before += more
    assert end == m.OutputEnd(1, m.Stream.STDOUT, 60_000, 0)


def test_credit_that_crosses_the_end_loses_nothing(host: Host) -> None:
    source = "import os; os.write(1, b'x' * 50_000); os._exit(0)"
    for number in range(10):
        host.start(job(python(source), window=1, number=number))
        before, _ = host.until(m.PhaseStarted)
        sent = 1
        while not isinstance(message := host.receive(), m.JobDone):
            before.append(message)
            if sent < 50_000:
                host.send(m.Credit(number, m.Stream.STDOUT, 7_000))
                sent += 7_000
            if isinstance(message, m.Exited):
                host.send(m.Credit(number, m.Stream.STDOUT, 50_000))

        assert Story(before).stdout == b"x" * 50_000


def test_closing_its_streams_does_not_end_the_program(host: Host) -> None:
    source = "import os, time; os.close(1); os.close(2); time.sleep(0.3); os._exit(4)"
    story = host.run(job(python(source)))

    kinds = [kind for kind in story.kinds if kind in ("OutputEnd", "Exited", "PhaseDone")]
    assert kinds == ["OutputEnd", "OutputEnd", "Exited", "PhaseDone"]
    assert story.one(m.PhaseDone).code == 4


def test_stopped_program_is_ended_by_its_time_limit(host: Host) -> None:
    source = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    done = host.run(job(python(source, wall_ms=500))).one(m.PhaseDone)

    assert done.verdict is m.Verdict.TIMED_OUT


def test_agent_ends_when_the_host_hangs_up(host: Host) -> None:
    host.start(job(python("print('begun', flush=True)")))
    host.until(m.Output)

    host.close()

    assert host.process.returncode == 0


def test_shutdown_ends_the_agent(host: Host) -> None:
    host.send(m.Shutdown())

    with pytest.raises(EOFError):
        host.receive()


def test_agent_leaks_no_descriptors(host: Host) -> None:
    def descriptors() -> int:
        return psutil.Process(host.process.pid).num_fds()

    host.run(job(python("print(1)"), outputs=["none"]))
    before = descriptors()
    for number in range(2, 6):
        build = python("open('x', 'w').write('x')", stdin=True)
        host.run(job(python("print(1)"), build, outputs=["x", "y"], number=number))
        host.run(job(m.Command(("none",), (), m.Limits(), stdin=True), number=number + 100))

    assert descriptors() == before
