"""Programs of another user than the agent's, as in a guest, and their pipes."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_protocol import messages as m
from support.agent import Host, Story, job, python

if TYPE_CHECKING:
    from collections.abc import Iterator

USER = 1000
# A root that is confined may lower this limit, and not raise it.
OPEN_FILES = 256
SCRIPT = "main.py"
BY_NAME = b"""
import os, stat, time
assert os.getuid() == 1000, os.getuid()
if stat.S_ISFIFO(os.stat("main.py").st_mode):
    raise SystemExit("the script is not there")
os.dup2(1, 7)
for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/fd/7"):
    with open(name, "w") as file:
        file.write(name + "\\n")
for name in ("/dev/stderr", "/dev/fd/2"):
    with open(name, "a") as file:
        file.write(name + "\\n")
os.system("echo shell >/dev/stderr; exec 3>&1; echo shell >/dev/fd/3; cat /dev/stdin")
"""

pytestmark = pytest.mark.usefixtures("other_users")


@pytest.fixture
def host() -> Iterator[Host]:
    # Not in pytest's directory, in which only root may look for the script.
    with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
        Path(directory).chmod(0o711)
        host = Host(Path(directory), USER)
        host.expect(m.Awake)
        yield host
        host.close()
    assert host.process.returncode == 0


def python_of_user(source: str, *, stdin: bool = False) -> m.Command:
    return python(source, stdin=stdin, open_files=OPEN_FILES)


def command(*, stdin: bool) -> m.Command:
    return m.Command((sys.executable, SCRIPT), (), m.Limits(open_files=OPEN_FILES), stdin)


def run_by_name(host: Host, *, ahead: bool, stdin: bool) -> Story:
    if ahead:
        host.send(m.Prestart(command(stdin=False), SCRIPT))
    host.start(job(command(stdin=stdin)), [(SCRIPT, BY_NAME)])
    if stdin:
        host.send(m.Input(1, b"what was sent\n"), m.InputEnd(1))
    messages, last = host.until(m.JobDone)
    return Story([*messages, last])


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("stdin", [False, True])
@pytest.mark.bare
def test_standard_streams_can_be_opened_by_name(host: Host, ahead: bool, stdin: bool) -> None:
    story = run_by_name(host, ahead=ahead, stdin=stdin)

    assert story.stderr == b"/dev/stderr\n/dev/fd/2\nshell\n"
    assert story.stdout == (
        b"/dev/stdout\n/dev/fd/1\n/proc/self/fd/1\n/dev/fd/7\nshell\n"
        + (b"what was sent\n" if stdin else b"")
    )
    assert story.one(m.PhaseDone).verdict is m.Verdict.OK


def test_terminal_is_the_program_s_own(host: Host) -> None:
    source = """
import os
assert os.getuid() == os.stat(os.ttyname(0)).st_uid == 1000
for name in ("/dev/stdin", "/dev/stdout", "/dev/fd/2", "/dev/tty", os.ttyname(0)):
    with open(name, "r+b", buffering=0) as file:
        file.write(name.encode() + b"\\n")
os.system("stty rows 5 columns 9 && stty size </dev/stdin")
"""
    host.start(job(replace(python_of_user(source), tty=m.Tty())))
    messages, _ = host.until(m.JobDone)
    name = Story(messages).stdout.split()[-3]

    assert name.startswith(b"/dev/pts/")
    assert Story(messages).stdout.split() == [
        b"/dev/stdin", b"/dev/stdout", b"/dev/fd/2", b"/dev/tty", name, b"5", b"9",
    ]  # fmt: skip


def test_output_that_is_taken_back_is_not_sent(host: Host) -> None:
    source = """
import os
back = os.open("/dev/stdout", os.O_RDONLY | os.O_NONBLOCK)
taken = 0
for _ in range(2000):
    os.write(1, b"x" * 1000)
    try:
        taken += len(os.read(back, 1000))
    except BlockingIOError:
        pass
os.write(2, b"%d" % taken)
"""
    story = host.run(job(python_of_user(source)))

    (end,) = (end for end in story.all(m.OutputEnd) if end.stream is m.Stream.STDOUT)
    assert len(story.stdout) == end.sent == 2_000_000 - int(story.stderr)
    assert story.one(m.PhaseDone).verdict is m.Verdict.OK


def test_reader_of_its_own_output_does_not_hold_the_end_of_the_phase(host: Host) -> None:
    source = """
import os, signal
ready, tell = os.pipe()
if os.fork() == 0:
    os.setsid()
    ends = [os.open(f"/dev/fd/{fd}", os.O_RDWR) for fd in (0, 1, 2)]
    os.write(tell, b"x")
    while True:
        os.read(ends[1], 100)
os.read(ready, 1)
os.write(2, b"the end")
"""
    host.start(job(python_of_user(source, stdin=True)))
    messages, done = host.until(m.PhaseDone)

    assert done.verdict is m.Verdict.OK
    assert Story(messages).stderr == b"the end"
    host.expect(m.JobDone)


def test_writer_of_its_own_stdin_meets_no_end_of_file(host: Host) -> None:
    source = """
import os
own = os.open("/dev/stdin", os.O_WRONLY)
os.write(own, b"from the program\\n")
seen = b""
while seen.count(b"\\n") < 2:
    seen += os.read(0, 100)
print(sorted(seen.splitlines()))
"""
    host.start(job(python_of_user(source, stdin=True)))
    host.send(m.Input(1, b"from the host\n"), m.InputEnd(1))
    messages, done = host.until(m.PhaseDone)

    assert Story(messages).stdout == b"[b'from the host', b'from the program']\n"
    assert done.verdict is m.Verdict.OK


def test_stdin_that_the_program_itself_fills_blocks_nothing(host: Host) -> None:
    source = """
import fcntl, os
own = os.open("/dev/stdin", os.O_WRONLY | os.O_NONBLOCK)
try:
    while True:
        os.write(own, bytes(4096))
except BlockingIOError:
    print("full", flush=True)
os.read(os.open("/dev/stdout", os.O_RDONLY), 0)
"""
    host.start(job(python_of_user(source, stdin=True)))
    host.until(m.Output)
    host.send(m.Input(1, bytes(50_000)), m.InputEnd(1))
    _, done = host.until(m.PhaseDone)

    assert done.verdict is m.Verdict.OK
    host.expect(m.JobDone)


def test_output_that_was_closed_and_is_opened_again_is_lost(host: Host) -> None:
    source = """
import os
back = os.open("/dev/stdout", os.O_RDONLY)
os.write(1, b"first")
os.close(1)
os.write(2, b"closed")
os.read(0, 1)
again = os.open(f"/dev/fd/{back}", os.O_WRONLY)
os.write(again, b"second")
os.fchmod(again, 0)
os._exit(3)
"""
    host.start(job(python_of_user(source, stdin=True)))
    ended = host.until(m.OutputEnd)[1]
    host.send(m.Input(1, b"x"))
    _, done = host.until(m.PhaseDone)

    assert (ended.stream, ended.sent) == (m.Stream.STDOUT, 5)
    assert (done.verdict, done.code) == (m.Verdict.FAILED, 3)


def test_program_cannot_open_memory_or_descriptors_of_the_agent(host: Host) -> None:
    source = """
import os
for name in (f"/proc/{os.getppid()}/fd", f"/proc/{os.getppid()}/mem"):
    try:
        os.open(name, os.O_RDONLY)
        print("opened")
    except OSError as error:
        print(type(error).__name__)
"""
    assert host.run(job(python_of_user(source))).stdout == b"PermissionError\nPermissionError\n"
