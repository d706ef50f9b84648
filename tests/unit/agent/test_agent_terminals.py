"""Programs in a terminal: its state, Input, Output and end."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_agent.terminal import MAX_LINE
from slipway_protocol import messages as m
from slipway_protocol.schema import MAX_DATA
from support.agent import Story, job, python
from support.waiting import block_until

if TYPE_CHECKING:
    from typing import Any

    from support.agent import Host

SURROUNDINGS = """
import os, sys
print([os.isatty(fd) for fd in (0, 1, 2)], *os.get_terminal_size(), os.environ["TERM"])
print(os.getsid(0) == os.getpid() == os.tcgetpgrp(0), os.ttyname(0) == os.ttyname(2))
print("written to stderr", file=sys.stderr)
with open("/dev/tty", "w") as terminal:
    print("written to /dev/tty", file=terminal)
with open("/dev/stdin") as again:
    print("read", again.readline().strip())
"""
READ_ALL = """
import hashlib, os
data = b""
while piece := os.read(0, 700):
    data += piece
print(len(data), hashlib.sha256(data).hexdigest())
"""
NO_ECHO = """
import termios
state = termios.tcgetattr(0)
state[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, state)
print("ready", flush=True)
"""

LONG = b"x" * MAX_LINE


def in_terminal(source: str, rows: int = 24, columns: int = 80, **limits: Any) -> m.Command:
    return replace(python(source, **limits), tty=m.Tty(rows, columns))


class Typist:
    """Types for job 1 as credit allows, and gives credit for all that is shown."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.messages: list[m.AgentMessage] = []
        self._credit = 0

    @property
    def shown(self) -> bytes:
        return Story(self.messages).stdout

    def take(self) -> None:
        message = self._host.receive()
        self.messages.append(message)
        match message:
            case m.Credit(_, m.Stream.STDIN, count):
                self._credit += count
            case m.Output(_, stream, data):
                self._host.send(m.Credit(1, stream, len(data)))

    def until(self, text: bytes) -> None:
        while text not in self.shown:
            self.take()

    def write(self, data: bytes) -> None:
        while data:
            while not self._credit:
                self.take()
            size = min(len(data), self._credit, MAX_DATA)
            self._host.send(m.Input(1, data[:size]))
            data, self._credit = data[size:], self._credit - size

    def end(self) -> Story:
        self._host.send(m.InputEnd(1))
        return self.wait()

    def wait(self) -> Story:
        while not self.messages or not isinstance(self.messages[-1], m.JobDone):
            self.take()
        return Story(self.messages)


@pytest.fixture
def typist(host: Host) -> Typist:
    return Typist(host)


def test_the_three_streams_are_one_terminal(host: Host, typist: Typist) -> None:
    host.start(job(in_terminal(SURROUNDINGS, 50, 132)))
    typist.write(b"typed\n")
    story = typist.end()

    lines = story.stdout.replace(b"typed\r\n", b"", 1).split(b"\r\n")  # the echo, wherever it came
    assert lines == [
        b"[True, True, True] 132 50 xterm-256color",
        b"True True",
        b"written to stderr",
        b"written to /dev/tty",
        b"read typed",
        b"",
    ]
    assert story.stderr == b""
    ends = story.all(m.OutputEnd)
    assert [(end.stream, end.sent, end.dropped) for end in ends] == [
        (m.Stream.STDOUT, len(story.stdout), 0),
        (m.Stream.STDERR, 0, 0),
    ]
    assert story.one(m.PhaseDone).verdict is m.Verdict.OK


def test_prompt_comes_before_its_input(host: Host, typist: Typist) -> None:
    host.start(job(in_terminal("name = input('name? ')\nprint('hello', name)")))
    typist.until(b"name? ")
    typist.write(b"you\n")

    assert typist.wait().stdout == b"name? you\r\nhello you\r\n"


@pytest.mark.parametrize("typed", [b"", b"one\n", b"one\ntwo", LONG, LONG * 2])
def test_end_of_input_is_the_end_of_the_file(host: Host, typist: Typist, typed: bytes) -> None:
    host.start(job(in_terminal(f"{NO_ECHO}\nimport sys\nprint(len(sys.stdin.read()))")))
    typist.until(b"ready\r\n")
    typist.write(typed)

    assert typist.end().stdout == b"ready\r\n%d\r\n" % len(typed)


@pytest.mark.parametrize("line", [1, 79, MAX_LINE - 1, MAX_LINE, 4095, 4096, 70_000])
def test_no_typed_byte_is_lost(host: Host, typist: Typist, line: int) -> None:
    host.start(job(in_terminal(f"{NO_ECHO}\n{READ_ALL}")))
    typist.until(b"ready\r\n")
    data = (b"0123456789" * 7000)[:line] + b"\n"
    data *= max(1, 200_000 // len(data)) if line > 1 else 30_000
    typist.write(data)
    expected = f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()

    assert typist.end().stdout == b"ready\r\n" + expected + b"\r\n"


def test_raw_terminal_passes_all_bytes_unchanged(host: Host, typist: Typist) -> None:
    source = """
import os, tty
tty.setraw(0)
os.write(1, b"ready\\n")
data = b""
while len(data) < 20_001: data += os.read(0, 65536)
os.write(1, b"same" if data == bytes(range(256)) * 78 + bytes(32) + b"\\4" else repr(data).encode())
"""
    host.start(job(in_terminal(source)))
    typist.until(b"ready\n")
    typist.write(bytes(range(256)) * 78 + bytes(32))

    assert typist.end().stdout == b"ready\nsame"


def test_program_that_does_not_read_holds_back_the_host(host: Host, typist: Typist) -> None:
    source = f"{NO_ECHO}\nimport signal; signal.pause()"
    host.start(job(in_terminal(source)))
    typist.until(b"ready")
    # What is typed fills the agent's window and is not granted again; all else goes on.
    typist.write(b"line\n" * (60 * 1024 // 5))
    host.send(m.Signal(1, 15))
    story = typist.wait()

    assert sum(c.count for c in story.all(m.Credit)) <= 2 * 64 * 1024
    assert story.one(m.PhaseDone).signal == 15


def test_ctrl_c_interrupts(host: Host, typist: Typist) -> None:
    host.start(job(in_terminal("print('on', flush=True)\nimport signal; signal.pause()")))
    typist.until(b"on\r\n")
    typist.write(b"\3")
    story = typist.wait()

    assert story.one(m.PhaseDone).signal == 2
    assert b"^C" in story.stdout


def test_new_size_reaches_the_program_by_sigwinch(host: Host, typist: Typist) -> None:
    source = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print("on", flush=True)
signal.sigwait([signal.SIGWINCH])
print(*os.get_terminal_size())
"""
    host.start(job(in_terminal(source)))
    typist.until(b"on\r\n")
    host.send(m.Resize(1, m.Tty(30, 100)))

    assert typist.wait().stdout == b"on\r\n100 30\r\n"


def test_resize_during_the_build_holds_for_the_run(host: Host, typist: Typist) -> None:
    run = in_terminal(
        "import os\nwhile os.get_terminal_size() != (90, 20): pass\nprint('so it is')"
    )
    host.start(
        job(run, build=python("import sys; print(sys.stdout.isatty()); input()", stdin=True))
    )
    typist.until(b"False")
    host.send(m.Resize(1, m.Tty(20, 90)))
    typist.write(b"\n")

    assert typist.wait().stdout == b"False\nso it is\r\n"


def test_resize_without_a_terminal_is_refused(host: Host) -> None:
    host.start(job(python("input()", stdin=True)))
    host.send(m.Resize(1, m.Tty()))

    assert host.until(m.Fault)[1].text == "the program has no terminal"
    host.send(m.InputEnd(1))
    host.until(m.JobDone)


def test_all_output_comes_before_the_end_despite_daemons(host: Host, typist: Typist) -> None:
    source = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(100)
os.write(1, b"x" * 300_000)
"""
    host.start(job(in_terminal(source)))
    story = typist.wait()

    assert len(story.stdout) == 300_000
    assert story.one(m.PhaseDone).verdict is m.Verdict.OK


def test_terminal_that_was_closed_can_be_opened_again(host: Host, typist: Typist) -> None:
    source = """
import os, time
for fd in range(3): os.close(fd)
time.sleep(0.1)
os.write(os.open("/dev/tty", os.O_RDWR), b"back")
"""
    host.start(job(in_terminal(source)))

    assert typist.wait().stdout == b"back"


def test_output_before_a_crash_is_kept(host: Host, typist: Typist) -> None:
    host.start(job(in_terminal("print('so far')\nimport os; os.abort()")))
    story = typist.wait()

    assert story.stdout == b"so far\r\n"
    assert story.one(m.PhaseDone).signal == 6


def test_terminal_output_stops_at_the_credit(host: Host) -> None:
    host.start(job(in_terminal("import os; os.write(1, b'x' * 30_000)"), window=10_000))
    before: list[m.AgentMessage] = []
    while len(Story(before).stdout) < 10_000:
        before.append(host.receive())
    assert len(Story(before).stdout) == 10_000
    host.send(m.Credit(1, m.Stream.STDOUT, 20_000))
    after, end = host.until(m.OutputEnd)

    assert len(Story(after).stdout) == 20_000
    assert (end.sent, end.dropped) == (30_000, 0)
    host.until(m.JobDone)


def test_end_needs_no_credit(host: Host) -> None:
    host.start(job(in_terminal("import os; os.write(1, b'x' * 3000)"), window=3000))
    before, end = host.until(m.OutputEnd)

    assert (len(Story(before).stdout), end.sent) == (3000, 3000)
    host.until(m.JobDone)


@pytest.mark.parametrize("kill", [False, True])
def test_output_limit_holds_for_a_terminal(host: Host, typist: Typist, kill: bool) -> None:
    limits = {"output_bytes": 1000, "kill_on_output": kill}
    host.start(job(in_terminal("import os; os.write(1, b'x' * 50_000)", **limits)))
    story = typist.wait()

    end = story.all(m.OutputEnd)[0]
    assert end.sent == len(story.stdout) == 1000
    assert kill or end.dropped == 49_000
    expected = m.Verdict.OUTPUT_EXCEEDED if kill else m.Verdict.OK
    assert story.one(m.PhaseDone).verdict is expected


def test_cancel_and_time_limit_end_a_program_in_a_terminal(host: Host, typist: Typist) -> None:
    forever = "import signal; print('on', flush=True)\nwhile True: signal.pause()"
    host.start(job(in_terminal(forever)))
    typist.until(b"on")
    host.send(m.Cancel(1))
    assert typist.wait().one(m.PhaseDone).verdict is m.Verdict.CANCELLED

    story = host.run(job(in_terminal(forever, wall_ms=300), number=2))
    assert story.one(m.PhaseDone).verdict is m.Verdict.TIMED_OUT


def test_hostile_state_of_the_terminal_blocks_nothing(host: Host, typist: Typist) -> None:
    """VEOF is switched off, output is stopped, and unusual flags are set."""
    source = """
import os, termios
state = termios.tcgetattr(0)
state[6][termios.VEOF] = b"\\0"
state[3] |= 0o200000  # EXTPROC
termios.tcsetattr(0, termios.TCSANOW, state)
print("on", flush=True)
termios.tcflow(1, termios.TCOOFF)
os.write(1, b"never")
"""
    host.start(job(in_terminal(source)))
    typist.until(b"on")
    typist.write(b"x" * 10_000)
    host.send(m.InputEnd(1), m.Cancel(1))
    assert typist.wait().one(m.PhaseDone).verdict is m.Verdict.CANCELLED
    assert host.run(job(in_terminal("print(1)"), number=2)).stdout == b"1\r\n"


def test_line_discipline_without_lines_blocks_nothing(host: Host, typist: Typist) -> None:
    """N_NULL has no lines and does not report its state."""
    source = f"""
import fcntl, signal, struct
{NO_ECHO}
signal.signal(signal.SIGWINCH, lambda *_: None)
fcntl.ioctl(0, 0x5423, struct.pack("i", 27))  # TIOCSETD, N_NULL
open("set", "w").close()
signal.pause()
fcntl.ioctl(0, 0x5423, struct.pack("i", 0))
print("over")
"""
    host.start(job(in_terminal(source)))
    typist.until(b"ready\r\n")
    block_until(
        lambda: list(host.directory.glob("*/set")), "the program has set the line discipline"
    )
    typist.write(LONG * 2)
    host.send(m.InputEnd(1), m.Resize(1, m.Tty(10, 10)))

    assert typist.wait().stdout.endswith(b"over\r\n")


def test_terminals_leak_no_descriptors(host: Host) -> None:
    descriptors = Path(f"/proc/{host.process.pid}/fd")
    host.run(job(in_terminal("print(1)")))
    before = len(list(descriptors.iterdir()))
    for number in range(2, 5):
        host.run(job(in_terminal("print(1)"), number=number))
        host.run(job(replace(in_terminal(""), argv=("/no/such",)), number=number + 10))

    assert len(list(descriptors.iterdir())) == before
