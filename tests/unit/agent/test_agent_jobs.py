"""Messages of a job and their order."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slipway_protocol import messages as m
from support.agent import job, python

if TYPE_CHECKING:
    from support.agent import Host

ORDER = ["PhaseStarted", "Output", "OutputEnd", "OutputEnd", "PhaseDone"]


def test_successful_program_is_ok(host: Host) -> None:
    story = host.run(job(python("print('hello')")))

    assert story.stdout == b"hello\n"
    assert [kind for kind in story.kinds if kind not in ("Exited", "JobDone")] == ORDER
    assert story.kinds[-1] == "JobDone"
    assert story.one(m.Exited) == m.Exited(1, m.Phase.RUN, 0, 0)
    assert {(end.stream, end.sent, end.dropped) for end in story.all(m.OutputEnd)} == {
        (m.Stream.STDOUT, 6, 0),
        (m.Stream.STDERR, 0, 0),
    }
    done = story.one(m.PhaseDone)
    assert (done.verdict, done.code, done.signal, done.detail) == (m.Verdict.OK, 0, 0, "")
    assert done.usage.wall_us > 0


def test_exit_code_other_than_zero_is_failed(host: Host) -> None:
    done = host.run(job(python("raise SystemExit(3)"))).one(m.PhaseDone)

    assert (done.verdict, done.code, done.signal) == (m.Verdict.FAILED, 3, 0)


def test_death_by_signal_is_signaled(host: Host) -> None:
    done = host.run(job(python("import os; os.kill(os.getpid(), 11)"))).one(m.PhaseDone)

    assert (done.verdict, done.code, done.signal) == (m.Verdict.SIGNALED, 0, 11)


def test_streams_stay_apart_and_in_order(host: Host) -> None:
    source = """
import os
for number in range(1000):
    os.write(1 + number % 2, b"%d\\n" % number)
"""
    story = host.run(job(python(source)))

    assert story.stdout.split() == [b"%d" % number for number in range(0, 1000, 2)]
    assert story.stderr.split() == [b"%d" % number for number in range(1, 1000, 2)]


def test_run_finds_the_files_of_its_build(host: Host) -> None:
    build = python("open('made', 'w').write('by the build')")
    story = host.run(job(python("print(open('made').read())"), build))

    assert [done.phase for done in story.all(m.PhaseDone)] == [m.Phase.BUILD, m.Phase.RUN]
    assert story.stdout == b"by the build\n"


def test_failed_build_ends_the_job(host: Host) -> None:
    build = python("import sys; sys.exit('does not compile')")
    story = host.run(job(python("print('never')"), build))

    assert story.one(m.PhaseDone).phase is m.Phase.BUILD
    assert story.one(m.PhaseDone).verdict is m.Verdict.FAILED
    assert (story.stdout, story.stderr) == (b"", b"does not compile\n")


def test_files_come_with_mode_and_directories(host: Host) -> None:
    source = """
import os
print(open('a/b/data', 'rb').read() == bytes(range(256)) * 1000, os.path.getsize('empty'))
print(oct(os.stat('a/b/data').st_mode))
"""
    files = [("a/b/data", bytes(range(256)) * 1000), ("empty", b"")]
    story = host.run(job(python(source)), files)

    assert story.stdout == b"True 0\n0o100755\n"


def test_requested_files_come_back_in_order(host: Host) -> None:
    source = """
import os
os.mkdir("directory")
open("directory/large", "wb").write(bytes(200_000))
open("empty", "w").close()
os.chmod("empty", 0o640)
"""
    story = host.run(job(python(source), outputs=["directory/large", "missing", "empty"]))

    large, empty = story.all(m.File)
    assert (large.path, large.size) == ("directory/large", 200_000)
    assert (empty.path, empty.size, empty.mode) == ("empty", 0, 0o640)
    assert b"".join(piece.data for piece in story.all(m.FileData)) == bytes(200_000)
    assert story.one(m.FileMissing) == m.FileMissing(1, "missing", "no such file")


@pytest.mark.parametrize(
    ("make", "path", "reason"),
    [
        ("os.symlink('/etc/passwd', 'x')", "x", "symbolic link"),
        ("os.symlink('/etc', 'x')", "x/passwd", "symbolic link"),
        ("os.mkfifo('x')", "x", "not a regular file"),
        ("os.mkdir('x')", "x", "not a regular file"),
        ("os.truncate(os.open('x', os.O_RDWR | os.O_CREAT), 1 << 40)", "x", "more than the disk"),
    ],
)
def test_requested_file_that_is_a_trap_is_missing(
    host: Host, make: str, path: str, reason: str
) -> None:
    story = host.run(job(python(f"import os; {make}"), outputs=[path]))

    assert reason in story.one(m.FileMissing).reason
    assert story.all(m.File) == []


def test_file_beyond_the_bound_of_all_files_is_missing_and_the_next_may_fit(host: Host) -> None:
    sizes = {"a": 60, "b": 50, "c": 40}
    source = f"for name, size in {sizes}.items(): open(name, 'w').write('x' * size)"
    bounded = replace(job(python(source), outputs=["a", "b", "c"]), outputs_bytes=100)

    story = host.run(bounded)

    assert [(file.path, file.size) for file in story.all(m.File)] == [("a", 60), ("c", 40)]
    missing = story.one(m.FileMissing)
    assert missing.path == "b"
    assert missing.reason == "it has 50 bytes, and 40 are left of the fetch_limit of 100"


def test_jobs_follow_each_other_without_traces(host: Host) -> None:
    source = "import os; print(os.listdir()); open('trace', 'w').close()"

    stories = [host.run(job(python(source), number=number)) for number in (1, 2, 3)]

    assert [story.stdout for story in stories] == [b"[]\n"] * 3
    assert list(host.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "code", "detail"),
    [
        (("no-such-program",), 127, "no such program in PATH"),
        (("./missing",), 127, "no such program"),
        (("./script",), 127, "interpreter or loader"),
        (("./garbage",), 126, "not a program of this machine"),
        (("/",), 126, "Permission denied"),
        ((), 127, "the command is empty"),
    ],
)
def test_failed_start_has_the_exit_code_of_a_shell(
    host: Host, argv: tuple[str, ...], code: int, detail: str
) -> None:
    files = [("script", b"#!/no/such/interpreter\n"), ("garbage", b"garbage\n")]
    story = host.run(job(m.Command(argv, (), m.Limits())), files)

    done = story.one(m.PhaseDone)
    assert (done.verdict, done.code) == (m.Verdict.FAILED, code)
    assert detail in done.detail
    assert [end.sent for end in story.all(m.OutputEnd)] == [0, 0]


@pytest.mark.bare
def test_program_finds_its_environment_and_nothing_else(host: Host) -> None:
    source = """
import os
print(sorted(os.environ), os.environ["HOME"] == os.getcwd(), os.environ["CHOSEN"])
print(os.listdir("/proc/self/fd"), os.getsid(0) == os.getpid(), oct(os.umask(0)))
print(open("/proc/self/status").read().partition("SigBlk:")[2].split()[:3:2])
"""
    environment = (("CHOSEN", "by the host"), ("USER", "somebody"))
    command = m.Command((sys.executable, "-ISBc", source), environment, m.Limits())
    lines = host.run(job(command)).stdout.decode().splitlines()

    names = ["CHOSEN", "HOME", "LOGNAME", "PATH", "TMPDIR", "USER"]
    assert lines[0].replace("'LC_CTYPE', ", "") == f"{names} True by the host"
    # The fourth descriptor is that of the listing itself.
    assert lines[1] == "['0', '1', '2', '3'] True 0o22"
    # Blocked: nothing. Ignored: what Python itself ignores, and what we were born with ignoring.
    ours = Path("/proc/self/status").read_text("ascii").partition("SigIgn:")[2].split()[0]
    assert lines[2] == f"['0000000000000000', '{ours}']"


def test_arguments_and_output_need_not_be_text(host: Host) -> None:
    source = "import os, sys; os.write(1, os.fsencode(sys.argv[1]))"
    story = host.run(job(python(source, "\udcff\udc80ü")))

    assert story.stdout == b"\xff\x80" + "ü".encode()
