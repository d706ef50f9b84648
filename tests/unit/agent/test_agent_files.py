"""Joined files of a job, into its directory and out of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from slipway_protocol import messages as m
from slipway_protocol.joining import JOINED_FILES
from slipway_protocol.schema import MAX_DATA, VERSION
from support.agent import Story, job, python

if TYPE_CHECKING:
    from support.agent import Host

LIST = """
import os
for path in sorted(os.path.join(top, name) for top, _, names in os.walk(".") for name in names):
    print(path, oct(os.stat(path).st_mode & 0o777), len(open(path, "rb").read()))
"""


def whole(path: str, data: bytes = b"", mode: int = 0o644) -> m.WholeFile:
    return m.WholeFile(path, mode, data)


def run(host: Host, spec: m.Job, *files: m.HostMessage) -> Story:
    """Run ``spec`` with the messages of its files, and credit for little output."""
    host.send(spec, *files, m.Start(spec.job))
    return Story([*host.until(m.JobDone)[0]])


def greet(host: Host, *capabilities: str) -> None:
    """Name the capabilities of the host."""
    host.send(m.Hello(VERSION, capabilities, 1, b""))
    host.expect(m.Ready)


def test_joined_files_are_stored_as_if_each_had_come_by_itself(host: Host) -> None:
    story = run(
        host,
        job(python(LIST)),
        m.Files(1, (whole("a/b/c", b"one", 0o600), whole("empty"), whole("a/d", b"x", 0o755))),
        m.File(1, "alone", 0o640, 2),
        m.FileData(1, b"xy"),
        m.Files(1, (whole("a/b/last", bytes(MAX_DATA - 100)),)),
    )

    assert story.stdout.decode().splitlines() == [
        "./a/b/c 0o600 3",
        f"./a/b/last 0o644 {MAX_DATA - 100}",
        "./a/d 0o755 1",
        "./alone 0o640 2",
        "./empty 0o644 0",
    ]


@pytest.mark.parametrize(
    "files", [(whole("x"), whole("x")), (whole("x"), whole("x/y")), (whole("x/y"), whole("x"))]
)
def test_joined_files_that_cannot_both_be_stored_end_the_job(
    host: Host, files: tuple[m.WholeFile, ...]
) -> None:
    done = run(host, job(python("print(1)")), m.Files(1, files)).one(m.PhaseDone)

    assert done.verdict is m.Verdict.INTERNAL_ERROR
    assert "x" in done.detail
    assert "cannot be stored" in done.detail
    assert host.run(job(python("print(1)"), number=2)).stdout == b"1\n"


def test_joined_files_replace_links_of_earlier_jobs_and_never_follow_them(host: Host) -> None:
    make = "import os; os.symlink('/etc/hostname', 'link'); os.mkfifo('fifo')"
    host.run(job(python(make), keep=True))

    files = m.Files(2, (whole("link", b"a"), whole("fifo", b"bc")))
    story = run(host, job(python(LIST), number=2, keep=True), files)

    assert story.stdout == b"./fifo 0o644 2\n./link 0o644 1\n"


def test_prestarted_program_takes_a_script_that_was_joined_with_others(host: Host) -> None:
    command = m.Command((sys.executable, "-ISB", "main.py"), (), m.Limits())
    host.send(m.Prestart(command, "main.py", ("unwanted",)))

    script = whole("main.py", b"print(open('data').read(), open('main.py').read())")
    story = run(host, job(command), m.Files(1, (script, whole("data", b"text"))))

    assert story.one(m.PhaseDone).verdict is m.Verdict.OK
    assert story.stdout == b"text " + script.data + b"\n"


def test_host_that_joins_files_gets_small_ones_in_one_message(host: Host) -> None:
    source = f"""
import os
os.mkdir("d")
for number in range(100):
    with open(f"d/{{number}}", "w") as file:
        file.write(str(number) * 10)
with open("large", "wb") as file:
    file.write(bytes({MAX_DATA} + 1))
os.chmod("d/7", 0o751)
"""
    numbers = [f"d/{number}" for number in range(100)]
    greet(host, JOINED_FILES, "unknown")

    story = run(host, job(python(source), outputs=[*numbers[:50], "large", "no", *numbers[50:]]))

    kinds = [kind for kind in story.kinds if "File" in kind]
    assert kinds == ["Files", "File", "FileData", "FileData", "FileMissing", "Files"]
    files = [file for message in story.all(m.Files) for file in message.files]
    assert [file.path for file in files] == numbers
    assert [file.data for file in files] == [str(number).encode() * 10 for number in range(100)]
    assert files[7].mode == 0o751


def test_many_small_files_take_several_messages(host: Host) -> None:
    source = "for number in range(300): open(str(number), 'wb').write(bytes(1000))"
    greet(host, JOINED_FILES)

    story = run(host, job(python(source), outputs=[str(number) for number in range(300)]))

    sizes = [len(message.files) for message in story.all(m.Files)]
    assert sum(sizes) == 300
    assert len(sizes) == 5


@pytest.mark.parametrize("capabilities", [(), ("other",)])
def test_host_that_names_no_capability_gets_each_file_by_itself(
    host: Host, capabilities: tuple[str, ...]
) -> None:
    greet(host, JOINED_FILES)
    greet(host, *capabilities)  # the last Hello counts

    story = run(host, job(python("open('x', 'w').write('y')"), outputs=["x"]))

    assert story.one(m.File) == m.File(1, "x", 0o644, 1)
    assert story.one(m.FileData) == m.FileData(1, b"y")
