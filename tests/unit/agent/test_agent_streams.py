"""Credit, stdin, and output of running programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway_agent.pipes import INPUT_WINDOW, PIPE_SIZE
from slipway_protocol import messages as m
from slipway_protocol.schema import MAX_DATA
from support.agent import Story, job, python

if TYPE_CHECKING:
    from support.agent import Host

ECHO = "import os\nwhile data := os.read(0, 65536): os.write(1, data)"


def send_input(host: Host, data: bytes) -> Story:
    """Send ``data`` as credit allows, and return all that the agent says until the job's end."""
    story: list[m.AgentMessage] = []
    credit = 0
    ended = False
    while not story or not isinstance(story[-1], m.JobDone):
        while data and credit:
            size = min(len(data), credit, MAX_DATA)
            host.send(m.Input(1, data[:size]))
            data, credit = data[size:], credit - size
        if not data and not ended:
            host.send(m.InputEnd(1))
            ended = True
        story.append(host.receive())
        match story[-1]:
            case m.Credit(_, m.Stream.STDIN, count):
                credit += count
            case m.Output(_, stream, output):
                host.send(m.Credit(1, stream, len(output)))
    return Story(story)


def test_output_arrives_while_the_program_runs(host: Host) -> None:
    source = "import sys\nprint('question', flush=True)\nprint(sys.stdin.readline() + 'answer')"
    host.start(job(python(source, stdin=True)))

    _, question = host.until(m.Output)
    host.send(m.Input(1, b"said\n"))
    _, answer = host.until(m.Output)

    assert question.data == b"question\n"
    assert answer.data == b"said\nanswer\n"
    host.send(m.InputEnd(1))
    host.until(m.JobDone)


def test_output_stops_at_the_credit(host: Host) -> None:
    host.start(job(python("import os; os.write(1, b'x' * 50_000)"), window=10_000))
    host.until(m.PhaseStarted)
    received = 0
    while received < 10_000:
        received += len(host.until(m.Output)[1].data)
    assert received == 10_000

    for _ in range(4):
        host.send(m.Credit(1, m.Stream.STDOUT, 10_000))
        before = received
        while received < before + 10_000:
            received += len(host.until(m.Output)[1].data)
        assert received == before + 10_000
    host.until(m.JobDone)


def test_credit_stops_the_program_and_not_the_other_stream(host: Host) -> None:
    source = """
import os
pid = os.fork()
if pid:
    os.write(1, bytes(8 << 20))
    os.waitpid(pid, 0)
else:
    os.write(2, b"through")
"""
    host.start(job(python(source), window=1000))
    stderr = b""
    while stderr != b"through":
        output = host.until(m.Output)[1]
        stderr += output.data if output.stream is m.Stream.STDERR else b""
    host.send(m.Credit(1, m.Stream.STDOUT, 16 << 20))
    host.until(m.JobDone)


def test_stdin_arrives_complete(host: Host) -> None:
    host.start(job(python(ECHO, stdin=True)))
    data = bytes(range(256)) * 2000

    assert send_input(host, data).stdout == data


def test_empty_stdin_is_end_of_file(host: Host) -> None:
    host.start(job(python("import sys; print(sys.stdin.read() == '')", stdin=True)))

    assert send_input(host, b"").stdout == b"True\n"


def test_without_stdin_the_program_reads_end_of_file(host: Host) -> None:
    assert host.run(job(python("import sys; print(sys.stdin.read() == '')"))).stdout == b"True\n"


def test_program_that_never_reads_stdin_ends_well(host: Host) -> None:
    host.start(job(python("print('done')", stdin=True)))
    story = send_input(host, bytes(40_000))

    assert story.stdout == b"done\n"
    assert story.one(m.PhaseDone).verdict is m.Verdict.OK


def test_input_is_dropped_after_the_program_closed_stdin(host: Host) -> None:
    source = "import os; os.read(0, 10); os.close(0); print('on'); import time; time.sleep(0.2)"
    host.start(job(python(source, stdin=True)))

    assert send_input(host, bytes(INPUT_WINDOW)).stdout == b"on\n"


def test_input_without_credit_is_refused_and_survived(host: Host) -> None:
    host.start(job(python("import time; time.sleep(1000)", stdin=True)))
    for _ in range(1 + PIPE_SIZE // MAX_DATA + 1 + INPUT_WINDOW // MAX_DATA):
        host.send(m.Input(1, bytes(MAX_DATA)))
    before, fault = host.until(m.Fault)

    assert not fault.fatal
    assert "credit" in fault.text
    assert Story(before).all(m.Credit)[0].count == INPUT_WINDOW
    host.send(m.Cancel(1))
    host.until(m.JobDone)


def test_input_goes_to_the_run_and_not_to_the_build(host: Host) -> None:
    build = python("import sys; print(repr(sys.stdin.read()))")
    host.start(job(python("import sys; print(repr(sys.stdin.read()))", stdin=True), build))

    assert send_input(host, b"for the run").stdout == b"''\n'for the run'\n"


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pieces=st.lists(
        st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=5000)), max_size=30
    ),
    window=st.integers(1, 70_000),
)
def test_all_written_bytes_arrive(host: Host, pieces: list[tuple[int, bytes]], window: int) -> None:
    source = f"import os\nfor fd, data in {pieces!r}: os.write(fd, data)"
    story = host.run(job(python(source), window=window))

    assert story.stdout == b"".join(data for fd, data in pieces if fd == 1)
    assert story.stderr == b"".join(data for fd, data in pieces if fd == 2)
