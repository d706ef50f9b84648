"""Jobs that keep their workspace: files of former jobs, and files that are sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from slipway_protocol import messages as m
from support.agent import Story, job, python

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.agent import Host

LIST = "import os; print(sorted(os.listdir()))"


def run(host: Host, source: str, files: Iterable[tuple[str, bytes]] = (), number: int = 1) -> Story:
    """A job of the session."""
    return host.run(job(python(source), number=number, keep=True), files)


def test_files_stay_as_they_were_left(host: Host) -> None:
    source = """
import os
os.mkdir("directory")
open("directory/file", "w").write("text")
os.chmod("directory/file", 0o640)
os.symlink("nowhere", "link")
os.mkfifo("fifo")
"""
    run(host, source, [("sent", b"by the host")])
    look = """
import os
print(sorted(os.listdir()), open("directory/file").read(), open("sent").read())
print(oct(os.stat("directory/file").st_mode), os.readlink("link"))
"""

    story = run(host, look, number=2)

    listed = b"['directory', 'fifo', 'link', 'sent'] text by the host\n0o100640 nowhere\n"
    assert story.stdout == listed


def test_failed_and_cancelled_jobs_leave_their_files_too(host: Host) -> None:
    run(host, "open('one', 'w').close(); raise SystemExit(1)")
    source = "import time; open('two', 'w').close(); print('begun', flush=True); time.sleep(1000)"
    host.start(job(python(source), number=2, keep=True))
    host.until(m.Output)
    host.send(m.Cancel(2))
    host.until(m.JobDone)
    host.send(job(python(LIST), number=3, keep=True), m.Cancel(3))
    host.until(m.JobDone)

    assert run(host, LIST, number=4).stdout == b"['one', 'two']\n"


def test_file_that_is_sent_again_replaces_the_former(host: Host) -> None:
    run(host, LIST, [("file", b"a long first text"), ("other", b"")])

    story = run(host, "print(open('file').read())", [("file", b"second")], number=2)

    assert story.stdout == b"second\n"


def test_job_without_keep_ends_the_session(host: Host) -> None:
    run(host, "open('file', 'w').close()")

    between = host.run(job(python(LIST), number=2))
    after = run(host, LIST, number=3)

    assert (between.stdout, after.stdout) == (b"[]\n", b"[]\n")


def test_size_of_the_disk_is_that_of_the_first_job(host: Host) -> None:
    large = "import os; os.truncate(os.open('x', os.O_RDWR | os.O_CREAT), 1 << 20)"
    first = m.Job(1, None, python(large), (), 1 << 20, disk_bytes=1 << 16, keep=True)
    second = m.Job(2, None, python(LIST), ("x",), 1 << 20, disk_bytes=1 << 30, keep=True)
    host.run(first)

    assert "more than the disk" in host.run(second).one(m.FileMissing).reason


@pytest.mark.parametrize(
    "leave",
    [
        "os.symlink(outside, 'file')",
        "os.symlink('nowhere', 'file')",
        "os.mkfifo('file')",
        "os.link(outside, 'file')",
        "import socket; socket.socket(socket.AF_UNIX).bind('file')",
        "os.close(os.open('file', os.O_CREAT, 0o000))",
    ],
)
def test_entry_in_the_place_of_a_file_is_replaced(host: Host, leave: str) -> None:
    outside = host.directory / "outside"
    outside.write_bytes(b"not yours")
    run(host, f"import os; outside = {str(outside)!r}; {leave}")

    look = "import os; print(open('file').read(), os.path.islink('file'), os.stat('file').st_nlink)"
    story = run(host, look, [("file", b"sent")], number=2)

    assert story.stdout == b"sent False 1\n"
    assert outside.read_bytes() == b"not yours"


@pytest.mark.parametrize(
    ("leave", "path", "reason"),
    [
        ("os.mkdir('file')", "file", "Is a directory"),
        ("os.symlink(outside, 'sub')", "sub/file", "Not a directory"),
        ("open('sub', 'w').close()", "sub/file", "Not a directory"),
        ("os.mkfifo('sub')", "sub/file", "Not a directory"),
        ("os.makedirs('a/b'); os.symlink(outside, 'a/b/c')", "a/b/c/d/file", "Not a directory"),
    ],
)
def test_obstacle_on_the_path_of_a_file_is_reported(
    host: Host, leave: str, path: str, reason: str
) -> None:
    outside = host.directory / "outside"
    outside.mkdir()
    run(host, f"import os; outside = {str(outside)!r}; {leave}")

    done = run(host, LIST, [(path, b"sent")], number=2).one(m.PhaseDone)

    assert done.verdict is m.Verdict.INTERNAL_ERROR
    assert f"{path} cannot be stored: {reason}" in done.detail
    assert list(outside.iterdir()) == []
    assert run(host, "print(1)", number=3).stdout == b"1\n"


def test_second_file_of_the_same_path_wins(host: Host) -> None:
    story = run(host, "print(open('x').read())", [("x", b"first"), ("x", b"2nd")])

    assert story.stdout == b"2nd\n"


def test_permissions_of_the_work_directory_are_restored(host: Host) -> None:
    run(host, "import os; os.mkdir('sub'); os.chmod('sub', 0o500); os.chmod('.', 0)")

    story = run(host, "import os; print(oct(os.stat('.').st_mode), os.listdir('sub'))", number=2)

    assert story.stdout == b"0o40755 []\n"


def test_processes_of_a_job_end_with_it(host: Host) -> None:
    source = "import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(1000)"
    run(host, source)

    assert psutil.Process(host.process.pid).children(recursive=True) == []


def test_build_works_on_the_kept_files(host: Host) -> None:
    run(host, "open('given', 'w').write('1')")
    build = python("open('made', 'w').write(open('given').read() + '2')")

    story = host.run(job(python("print(open('made').read())"), build, number=2, keep=True))

    assert story.stdout == b"12\n"


def test_prestart_in_a_session_is_refused(host: Host) -> None:
    run(host, "open('file', 'w').close()")
    host.send(m.Prestart(python(LIST), "main.py"))

    assert not host.expect(m.Fault).fatal
    assert run(host, LIST, number=2).stdout == b"['file']\n"


def test_sessions_leak_no_descriptors(host: Host) -> None:
    def descriptors() -> int:
        return psutil.Process(host.process.pid).num_fds()

    run(host, LIST)
    before = descriptors()
    for number in range(2, 8, 2):
        run(host, LIST, [("x", b"x"), ("a/b", b"")], number)
        host.run(job(python(LIST), number=number + 1))

    assert descriptors() == before
