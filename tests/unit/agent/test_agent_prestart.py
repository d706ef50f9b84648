"""Prestarted programs: jobs with them report the same as jobs without."""

from __future__ import annotations

import re
import signal
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from slipway_agent.prestart import MAX_SCRIPT, can_be_piped
from slipway_protocol import messages as m
from slipway_protocol.schema import VERSION
from support.agent import Story, job
from support.waiting import block_until

if TYPE_CHECKING:
    from support.agent import Host

SCRIPT = "main.py"
WHO = b"import os; print(os.getpid())"
ENVIRONMENT = (("PYTHONDONTWRITEBYTECODE", "1"), ("COLOUR", "red"))


def command(*arguments: str, stdin: bool = False, **limits: Any) -> m.Command:
    return m.Command((sys.executable, SCRIPT, *arguments), ENVIRONMENT, m.Limits(**limits), stdin)


def processes(host: Host) -> list[psutil.Process]:
    return psutil.Process(host.process.pid).children(recursive=True)


def waits_for_script(process: psutil.Process) -> bool:
    """Return true if ``process`` is the program and has opened the FIFO."""
    try:
        # Before it executes the program, the agent's child has the agent's descriptors.
        is_program = any(Path(word).name == SCRIPT for word in process.cmdline())
        return is_program and any(
            link.name != "0" and link.is_fifo() and link.readlink().name == SCRIPT
            for link in Path(f"/proc/{process.pid}/fd").iterdir()
        )
    except (FileNotFoundError, psutil.NoSuchProcess):
        return False


def prestart(
    host: Host,
    run: m.Command | None = None,
    path: str = SCRIPT,
    unless: tuple[str, ...] = (),
) -> int:
    """Prestart a program and wait until it has opened its script; return its pid."""
    host.send(m.Prestart(run or command(), path, unless))
    waiting = block_until(
        lambda: [process for process in processes(host) if waits_for_script(process)],
        "the prestarted program has opened the FIFO",
    )
    return waiting[0].pid


def run(host: Host, script: bytes, number: int = 1, **kind: Any) -> Story:
    return host.run(job(command(**kind), number=number), [(SCRIPT, script)])


def anywhere(output: bytes) -> bytes:
    """``output`` without the names of directories and the addresses of objects."""
    return re.sub(rb"/[^ '\"]*/tmp\w{8}/| at 0x[0-9a-f]+", b"", output)


def summarise(story: Story) -> tuple[object, ...]:
    """All of a story that does not depend on time and place."""
    done = story.one(m.PhaseDone)
    kinds = [kind for kind in story.kinds if kind not in ("Output", "Exited", "OutputEnd")]
    dropped = {(end.stream, end.dropped) for end in story.all(m.OutputEnd)}
    return (
        anywhere(story.stdout),
        anywhere(story.stderr),
        (done.verdict, done.code, done.signal, done.detail),
        kinds,
        dropped,
    )


def test_job_gets_the_waiting_program(host: Host) -> None:
    pid = prestart(host)

    story = run(host, WHO)

    assert story.stdout == b"%d\n" % pid
    assert story.one(m.PhaseDone).verdict is m.Verdict.OK
    assert list(host.directory.iterdir()) == []


@pytest.mark.parametrize(
    "script",
    [
        b"",
        b"\n",
        b"print('no newline at the end')",
        b"print('lines of DOS')\r\nprint(2)\r\n",
        b"print('\xc3\xa4')",
        b"#!/usr/bin/env python3\nprint(__name__, __doc__)",
        b"'''text'''\nprint(__doc__, __spec__, __builtins__, __loader__)",
        b"import sys; print(sys.argv, __file__, len(sys.path), sys.path[0][-4:] != 'main')",
        b"import sys; print(sys.path[0] == __import__('os').getcwd(), sys.flags)",
        b"import os; print(sorted(os.environ.items() - {('HOME', os.environ['HOME'])}))",
        b"import os; print(os.listdir(), os.environ['HOME'] == os.getcwd())",
        b"import os, stat; print(stat.filemode(os.stat('main.py').st_mode), open(__file__).read())",
        b"import os; print(len(os.listdir('/proc/self/fd')), os.getsid(0) == os.getpid())",
        b"import resource as r; print([r.getrlimit(n) for n in range(16)])",
        b"import signal; print([signal.getsignal(n) for n in range(1, 32)])",
        b"import sys; print(repr(sys.stdin.read()), sys.stdin.isatty())",
        b"import inspect\ndef f():\n  'doc'\nprint(inspect.getsource(f))",
        b"import main; print(main.__file__[-8:])",
        b"def f():\n    raise ValueError('in a function')\nf()",
        b"x = (1,\n",
        b"print('a'\nprint('b')",
        b"if True:\n\tx\n        y",
        b"print('\xff')",
        b"# coding: latin-1\nprint(ascii('\xe4'))",
        b"#!/x\n# -*- coding: utf-8 -*-\nprint(ascii('\xc3\xa4'))",
        b"# coding: nonsense\n",
        b"\xef\xbb\xbfprint('with a mark')",
        b"print(1)\0print(2)",
        b"raise SystemExit(7)",
        b"import sys; sys.exit('a message')",
        b"import os; os.kill(os.getpid(), 9)",
        b"import os; os._exit(3)",
        b"import sys; sys.stderr.write('x' * 100000); sys.stdout.write('y' * 100000)",
        b"print('long')\n" + b"# a comment that fills the pipe\n" * 100_000 + b"print(__file__)",
        b"x = '" + b"a" * 3_000_000 + b"'\nprint(len(x))",
    ],
    ids=lambda script: repr(script[:30]),
)
def test_run_with_prestart_reports_the_same_as_without(host: Host, script: bytes) -> None:
    without = run(host, script)
    prestart(host)

    story = run(host, script)

    assert summarise(story) == summarise(without)


@pytest.mark.parametrize("stdin", [b"", b"a line\n", bytes(range(256)) * 500])
def test_program_gets_its_stdin(host: Host, stdin: bytes) -> None:
    prestart(host)
    script = b"import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    host.start(job(command(stdin=True)), [(SCRIPT, script)])
    pieces = [stdin[start : start + 30_000] for start in range(0, len(stdin), 30_000)]

    story: list[m.AgentMessage] = []
    credit = 0
    while not story or not isinstance(story[-1], m.JobDone):
        while pieces and credit >= len(pieces[0]):
            credit -= len(pieces[0])
            host.send(m.Input(1, pieces.pop(0)))
            if not pieces:
                host.send(m.InputEnd(1))
        if not stdin and not story:
            host.send(m.InputEnd(1))
        story.append(host.receive())
        if isinstance(story[-1], m.Credit):
            credit += story[-1].count

    assert Story(story).stdout == stdin


def test_interpreter_that_opens_its_script_late_finds_the_file(host: Host) -> None:
    for number in range(1, 11):
        host.send(m.Prestart(command(), SCRIPT))
        story = run(host, WHO, number)

        assert story.one(m.PhaseDone).verdict is m.Verdict.OK
        assert story.stdout.strip().isdigit()


@pytest.mark.parametrize(
    ("run", "settings", "expected"),
    [
        (command(), False, "red [] False False"),
        (command(open_files=32), False, "red [] True False"),
        (command("argument"), False, "red ['argument'] False False"),
        (replace(command(), environment=(("COLOUR", "blue"),)), False, "blue [] False False"),
        (command(), True, "red [] False True"),
    ],
    ids=["same", "limits", "arguments", "environment", "unless"],
)
@pytest.mark.parametrize("clone", [False, True], ids=["same-machine", "clone"])
def test_job_right_behind_prestart_runs_as_without(
    host: Host, run: m.Command, settings: bool, expected: str, clone: bool
) -> None:
    script = b"""
import os, resource, sys
limited = resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 32
print(os.environ["COLOUR"], sys.argv[1:], limited, os.path.exists("settings.json"))
"""
    files = [(SCRIPT, script)] + [("settings.json", b"")] * settings
    messages: list[m.HostMessage] = [m.Prestart(command(), SCRIPT, ("settings.json",))]
    if clone:
        messages.append(m.Hello(VERSION, (), 1, b"", clone=True))
    messages.append(job(run))
    for path, data in files:
        messages.append(m.File(1, path, 0o644, len(data)))
        if data:
            messages.append(m.FileData(1, data))

    host.send(*messages, m.Start(1))
    story = Story(host.until(m.JobDone)[0])

    assert story.one(m.PhaseDone).verdict is m.Verdict.OK
    assert story.stdout.decode() == expected + "\n"


def test_program_that_the_kernel_kills_as_it_executes_ends_by_a_signal(
    host: Host, tmp_path: Path
) -> None:
    # A segment outside the address space: the kernel kills the process within execve(2).
    broken = tmp_path / "broken"
    machine = Path(sys.executable).read_bytes()[18:20]
    broken.write_bytes(
        b"\x7fELF\2\1\1".ljust(16, b"\0")
        + struct.pack("<H2sIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        + struct.pack("<IIQQQQQQ", 1, 5, 0, 1 << 60, 0, 4096, 4096, 4096)
    )
    broken.chmod(0o755)
    run = m.Command((str(broken), SCRIPT), (), m.Limits())
    host.send(m.Prestart(run, SCRIPT))

    story = host.run(job(run), [(SCRIPT, b"")])

    assert story.all(m.Log) == []  # the agent took it for a program that runs
    done = story.one(m.PhaseDone)
    assert (done.verdict, done.signal) == (m.Verdict.SIGNALED, signal.SIGSEGV)


def test_script_is_stored_beside_the_other_files(host: Host) -> None:
    prestart(host)
    files = [("data/x", b"data"), (SCRIPT, b"print(open('data/x').read())"), ("after", b"")]

    assert host.run(job(command()), files).stdout == b"data\n"


def test_script_may_be_in_a_directory(host: Host) -> None:
    wanted = m.Command((sys.executable, f"sub/{SCRIPT}"), (), m.Limits())
    pid = prestart(host, wanted, f"sub/{SCRIPT}")

    story = host.run(job(wanted), [(f"sub/{SCRIPT}", WHO), ("sub/beside", b"")])

    assert story.stdout == b"%d\n" % pid


@pytest.mark.parametrize(
    "other",
    [
        job(command("argument")),
        job(command(), build=m.Command(("true",), (), m.Limits())),
        job(command(), keep=True),
        job(m.Command((sys.executable, SCRIPT), (), m.Limits())),
        job(replace(command(), tty=m.Tty())),
    ],
    ids=["arguments", "build", "keep", "environment", "terminal"],
)
def test_job_of_another_kind_ends_the_program(host: Host, other: m.Job) -> None:
    pid = prestart(host)

    story = host.run(other, [(SCRIPT, WHO + b"\nprint(os.listdir())")])

    assert not psutil.pid_exists(pid)
    assert {done.verdict for done in story.all(m.PhaseDone)} == {m.Verdict.OK}
    assert int(story.stdout.split()[0]) != pid
    assert b"['main.py']" in story.stdout


def test_job_without_the_script_ends_the_program(host: Host) -> None:
    pid = prestart(host)

    story = host.run(job(command()), [("other.py", WHO)])

    assert not psutil.pid_exists(pid)
    assert b"can't open file" in story.stderr
    assert story.one(m.PhaseDone).code == 2


def test_script_that_is_too_large_to_hold_is_run_without(host: Host) -> None:
    pid = prestart(host)

    story = run(host, WHO + b"\n" + b"#" * MAX_SCRIPT)

    assert story.one(m.PhaseDone).verdict is m.Verdict.OK
    assert story.stdout != b"%d\n" % pid
    assert not psutil.pid_exists(pid)


def test_program_that_died_before_its_job_is_replaced(host: Host) -> None:
    pid = prestart(host)
    psutil.Process(pid).kill()
    block_until(lambda: not is_running(pid), "the killed program has ended")

    story = run(host, WHO)

    assert story.one(m.PhaseDone).verdict is m.Verdict.OK
    assert story.stdout != b"%d\n" % pid


def is_running(pid: int) -> bool:
    """Return true if process ``pid`` exists and has not ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_program_that_dies_between_job_and_start_is_replaced(host: Host) -> None:
    pid = prestart(host)
    host.send(job(command()), m.File(1, SCRIPT, 0o644, len(WHO)), m.FileData(1, WHO))
    psutil.Process(pid).kill()
    block_until(lambda: not is_running(pid), "the killed program has ended")

    host.send(m.Start(1))
    messages, _ = host.until(m.JobDone)

    assert Story(messages).one(m.PhaseDone).verdict is m.Verdict.OK


def test_second_prestart_ends_the_first_program(host: Host) -> None:
    first = prestart(host)
    host.send(m.Prestart(command(), SCRIPT))

    second = int(run(host, WHO).stdout)

    assert second != first
    assert not psutil.pid_exists(first)


@pytest.mark.parametrize("first", ["settings.json", SCRIPT])
def test_job_with_a_file_that_the_program_looked_for_runs_without(host: Host, first: str) -> None:
    pid = prestart(host, unless=("other", "settings.json"))
    script = b"import os; print(os.getpid(), open('settings.json').read())"
    files = [("settings.json", b"{}"), (SCRIPT, script)]

    story = host.run(job(command()), files if first == "settings.json" else files[::-1])

    number, settings = story.stdout.split()
    assert settings == b"{}"
    assert int(number) != pid
    assert not psutil.pid_exists(pid)
    assert list(host.directory.iterdir()) == []


def test_job_with_other_files_gets_the_program(host: Host) -> None:
    pid = prestart(host, unless=("settings.json",))

    story = host.run(job(command()), [("data.json", b"{}"), (SCRIPT, WHO)])

    assert story.stdout == b"%d\n" % pid


@pytest.mark.parametrize("argv", [("no-such-program",), (), ("/",)])
def test_failed_prestart_is_logged_and_the_job_runs_without(
    host: Host, argv: tuple[str, ...]
) -> None:
    host.send(m.Prestart(m.Command(argv, (), m.Limits()), SCRIPT))

    assert host.expect(m.Log).level is m.Level.INFO
    assert run(host, WHO).one(m.PhaseDone).verdict is m.Verdict.OK
    assert list(host.directory.iterdir()) == []


def test_program_that_ends_without_its_script_is_replaced(host: Host, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    source = f"open({str(begun)!r}, 'w').close(); print('quick')"
    quick = m.Command((sys.executable, "-c", source, SCRIPT), (), m.Limits())
    host.send(m.Prestart(quick, SCRIPT))
    block_until(begun.exists, "the prestarted program has begun")
    block_until(lambda: not processes(host), "the prestarted program has ended")

    assert host.run(job(quick), [(SCRIPT, b"")]).stdout == b"quick\n"


def test_files_that_cannot_be_stored_end_the_job_and_the_program(host: Host) -> None:
    pid = prestart(host)

    story = host.run(job(command()), [(SCRIPT, WHO), ("x", b""), ("x/y", b"")])

    assert story.one(m.PhaseDone).verdict is m.Verdict.INTERNAL_ERROR
    assert not psutil.pid_exists(pid)
    assert list(host.directory.iterdir()) == []


def test_script_whose_place_is_taken_ends_the_job_and_the_program(
    host: Host, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    source = f"""
import os, time
os.unlink({SCRIPT!r})
os.mkdir({SCRIPT!r})
open({str(begun)!r}, "w").close()
time.sleep(1000)
"""
    taking = m.Command((sys.executable, "-c", source, SCRIPT), (), m.Limits())
    host.send(m.Prestart(taking, SCRIPT))
    block_until(begun.exists, "the prestarted program has begun")

    done = host.run(job(taking), [(SCRIPT, WHO)]).one(m.PhaseDone)

    assert done.verdict is m.Verdict.INTERNAL_ERROR
    assert done.detail == "the job's files are missing: main.py cannot be stored: Is a directory"
    assert processes(host) == []


def test_script_sent_twice_ends_the_job(host: Host) -> None:
    prestart(host)

    story = host.run(job(command()), [(SCRIPT, WHO), (SCRIPT, WHO)])

    assert story.one(m.PhaseDone).verdict is m.Verdict.INTERNAL_ERROR


def test_script_that_never_ends_ends_the_job(host: Host) -> None:
    prestart(host)
    host.send(job(command()), m.File(1, SCRIPT, 0o644, 100), m.FileData(1, b"x"), m.Start(1))
    messages, _ = host.until(m.JobDone)

    assert Story(messages).one(m.PhaseDone).verdict is m.Verdict.INTERNAL_ERROR
    assert processes(host) == []


def test_cancel_before_the_start_ends_the_program(host: Host) -> None:
    prestart(host)
    host.send(job(command()), m.File(1, SCRIPT, 0o644, 10), m.Cancel(1))

    host.expect(m.JobDone)

    assert processes(host) == []
    assert list(host.directory.iterdir()) == []


def test_limits_are_those_of_the_job(host: Host) -> None:
    script = b"""
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
    prestart(host)

    story = run(host, script, file_bytes=50_000, open_files=32)

    assert story.stdout == b"File too large\nToo many open files\n"


def test_program_that_finds_its_script_as_a_file_has_the_limits_of_the_job(
    host: Host, tmp_path: Path
) -> None:
    # The program stands for an interpreter that is slow to open its script.
    begun = tmp_path / "begun"
    source = f"""
import os, resource, stat
open({str(begun)!r}, "w").close()
while not stat.S_ISREG(os.stat({SCRIPT!r}).st_mode):
    pass
limits = [resource.getrlimit(name)[0] for name in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)]
print(*limits)
"""
    limits = m.Limits(file_bytes=50_000, open_files=32)
    late = m.Command((sys.executable, "-c", source, SCRIPT), (), limits)
    host.send(m.Prestart(late, SCRIPT))
    block_until(begun.exists, "the prestarted program has begun")

    story = host.run(job(late), [(SCRIPT, b"")])

    assert story.stdout == b"50000 32\n"


def test_program_whose_limits_are_refused_gets_no_script(host: Host) -> None:
    pid = prestart(host)
    more_than_the_kernel_allows = command(open_files=(1 << 31) - 1)

    story = host.run(job(more_than_the_kernel_allows, outputs=[SCRIPT]), [(SCRIPT, WHO)])

    done = story.one(m.PhaseDone)
    assert done.verdict is m.Verdict.INTERNAL_ERROR
    assert "cannot limit the program" in done.detail
    assert story.one(m.FileMissing).reason == "not a regular file"
    assert not psutil.pid_exists(pid)


def test_wall_time_begins_with_the_job(host: Host) -> None:
    prestart(host)
    time.sleep(0.5)

    done = run(host, b"import time; time.sleep(1000)", wall_ms=400).one(m.PhaseDone)

    assert done.verdict is m.Verdict.TIMED_OUT
    assert done.usage.wall_us >= 400_000


def test_cpu_time_before_the_job_does_not_count(host: Host) -> None:
    prestart(host)

    done = run(host, b"while True: pass", cpu_ms=300).one(m.PhaseDone)

    assert done.verdict is m.Verdict.CPU_EXCEEDED
    assert done.usage.user_us + done.usage.system_us >= 300_000


def test_prestart_during_a_job_is_refused(host: Host) -> None:
    host.start(job(command()), [(SCRIPT, b"import time; time.sleep(1000)")])
    host.send(m.Prestart(command(), SCRIPT))
    _, fault = host.until(m.Fault)
    host.send(m.Cancel(1))

    assert not fault.fatal
    host.until(m.JobDone)
    assert processes(host) == []


def test_clone_has_no_program_of_its_template(host: Host) -> None:
    pid = prestart(host)
    host.send(m.Hello(VERSION, (), 1, b"", clone=True))
    host.expect(m.Ready)

    assert not psutil.pid_exists(pid)
    assert list(host.directory.iterdir()) == []


def test_prestarts_leak_no_descriptors(host: Host) -> None:
    def descriptors() -> int:
        return psutil.Process(host.process.pid).num_fds()

    run(host, WHO)
    before = descriptors()
    for number in range(2, 20, 3):
        prestart(host)
        run(host, WHO, number)
        prestart(host)
        run(host, b"# coding: latin-1", number + 1)
        host.send(m.Prestart(command(), SCRIPT))
        run(host, b"raise SystemExit", number + 2)

    assert descriptors() == before


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (b"", True),
        (b"print('coding')\nx = 1\n# coding: latin-1", True),
        (b"# vim: set fileencoding=latin-1", False),
        (b"\n# coding: utf-8", False),
        (b"\r# coding: utf-8", False),
        (b"\r\n# coding: utf-8\r\n", False),
        (b"PK\x05\x06", False),
        (b"\xa7\r\r\n", False),
        (b"\xef\xbb\xbf", False),
        (b"a\0", False),
        ("ä".encode(), True),
    ],
)
def test_script_is_piped_unless_python_would_seek_in_it(script: bytes, expected: bool) -> None:
    assert can_be_piped(script) is expected
